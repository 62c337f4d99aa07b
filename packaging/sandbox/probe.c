// Tries what a unit's sandbox forbids, one attempt a line: `NAME VERDICT`, VERDICT being `done` or the error's name.
//
// Every attempt is harmless where it succeeds: it writes back what was there, or gives an argument that the kernel
// refuses only after it has asked for the privilege. Each runs in a child of its own, so that a signal is an answer too.
// Linked statically, so that it needs nothing of the system it runs in. `packaging/sandbox/run` starts it in a container of
// its own; elsewhere it refuses to run, since as root it may do all of this.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/perf_event.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/klog.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/personality.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/timex.h>
#include <sys/wait.h>
#include <unistd.h>

static long victim; // a process of the same user in another unit
static int nofile;  // descriptors to open at once

static int wrote(const char *path) { // an existing file, or a new one
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    return fd < 0 || write(fd, "x", 1) != 1 ? -1 : 0;
}
static int wrote_in(const char *folder) {
    char path[64];
    snprintf(path, sizeof path, "%s/probe-%d", folder, getpid());
    return wrote(path);
}
static int wrote_back(const char *path) {
    char text[64];
    int from = open(path, O_RDONLY), to = open(path, O_WRONLY);
    ssize_t n = to < 0 ? -1 : read(from, text, sizeof text);
    return n < 0 || write(to, text, n) != n ? -1 : 0;
}
static int opened(const char *path) { return open(path, O_RDONLY | O_CLOEXEC) < 0 ? -1 : 0; }
// A refusal that comes only after the privilege was granted counts as done.
static int passed(long result, int harmless) { return result >= 0 || errno == harmless ? 0 : -1; }
static int sock(int family, int kind, int protocol) { return socket(family, kind, protocol) < 0 ? -1 : 0; }

static int usr(void) { return wrote_in("/usr/open"); }
static int etc(void) { return wrote_in("/etc/open"); }
static int other_state(void) { return wrote_in("/var/lib/open"); }
static int configuration(void) { return wrote("/etc/obelisk/one/node.toml"); }
static int shadow(void) { return opened("/etc/shadow"); }
static int signer_state(void) { return opened("/var/lib/obelisk-signer/one/secret"); }
static int node_state(void) { return opened("/var/lib/obelisk/one/secret"); }
static int other_node_state(void) { return opened("/var/lib/obelisk/other/secret"); }
static int other_signer_state(void) { return opened("/var/lib/obelisk-signer/other/secret"); }
static int ca_state(void) { return opened("/var/lib/obelisk-ca/secret"); }
static int credstore(void) { return opened("/etc/credstore/obelisk-one.pin"); }
static int node_write(void) { return wrote_in("/var/lib/obelisk/one"); }
static int signer_write(void) { return wrote_in("/var/lib/obelisk-signer/one"); }
static int ca_write(void) { return wrote_in("/var/lib/obelisk-ca"); }
static int home(void) { return opened("/home/open/file"); }
static int others_tmp(void) { return opened("/tmp/of-others"); }
static int device(void) { return opened("/dev/probe"); }
static int proc_of_init(void) { return opened("/proc/1/status"); }
static int packet(void) { return sock(AF_PACKET, SOCK_RAW, 0); }
static int netlink(void) { return sock(AF_NETLINK, SOCK_RAW, 0); }
static int raw_ip(void) { return sock(AF_INET, SOCK_RAW, IPPROTO_ICMP); }
static int connect_ip(void) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(9), .sin_addr = {htonl(INADDR_LOOPBACK)}};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    return fd < 0 ? -1 : passed(connect(fd, (void *)&to, sizeof to), ECONNREFUSED);
}
static int trace(void) { return ptrace(PTRACE_ATTACH, victim, 0, 0) ? -1 : 0; }
static int memory(void) {
    char path[64];
    snprintf(path, sizeof path, "/proc/%ld/mem", victim);
    return opened(path);
}
// In a mount namespace of its own where that is allowed, so that nobody else sees it.
static int mount_tmpfs(void) {
    if (unshare(CLONE_NEWNS) == 0) mount(0, "/", 0, MS_REC | MS_PRIVATE, 0);
    return mount("tmpfs", "/mnt", "tmpfs", 0, 0);
}
static int change_root(void) { return chroot("/"); }
static int module(void) { return passed(syscall(SYS_init_module, 0, 0L, ""), ENOEXEC); }
static int module_of_file(void) { return passed(syscall(SYS_finit_module, open("/dev/null", O_RDONLY), "", 0), ENOEXEC); }
static int module_removal(void) { return passed(syscall(SYS_delete_module, "no-such-module", O_NONBLOCK), ENOENT); }
static int module_files(void) { return opened("/usr/lib/modules/open"); }
static int node_of_device(void) {
    char path[32];
    snprintf(path, sizeof path, "/tmp/null-%d", getpid());
    return mknod(path, S_IFCHR | 0600, makedev(1, 3));
}
static int become_root(void) { return setuid(getuid() == 0 ? 1 : 0); }
static int suid_program(void) {
    pid_t child = fork();
    if (child == 0) execl("/opt/become-root", "become-root", "--am-i-root", (char *)0), _exit(2);
    int status;
    waitpid(child, &status, 0);
    errno = EPERM;
    return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : -1;
}
static int suid_file(void) {
    char path[32];
    snprintf(path, sizeof path, "/tmp/suid-%d", getpid());
    return wrote(path) || chmod(path, 04755) ? -1 : 0;
}
static int write_and_execute(void) {
    void *page = mmap(0, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return page == MAP_FAILED ? -1 : 0;
}
static int execute_written(void) {
    void *page = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return page == MAP_FAILED ? -1 : mprotect(page, 4096, PROT_READ | PROT_EXEC);
}
static int change_personality(void) { return personality(ADDR_NO_RANDOMIZE) < 0 ? -1 : 0; }
static int user_namespace(void) { return unshare(CLONE_NEWUSER); }
static int mount_namespace(void) { return unshare(CLONE_NEWNS); }
static int namespace_by_clone3(void) {
    unsigned long long arguments[11] = {CLONE_NEWUSER, [4] = SIGCHLD};
    long child = syscall(SYS_clone3, arguments, sizeof arguments);
    if (child == 0) _exit(0);
    return child < 0 ? -1 : 0;
}
static int proc_sys(void) { return wrote_back("/proc/sys/net/ipv4/ip_default_ttl"); }
static int control_group(void) { return mkdir("/sys/fs/cgroup/systemd/probe", 0755) && mkdir("/sys/fs/cgroup/probe", 0755); }
static int restart_machine(void) { return passed(syscall(SYS_reboot, 0, 0, 0, 0), EINVAL); }
static int set_clock(void) {
    struct timex now = {0};
    if (adjtimex(&now) < 0) return -1;
    now.modes = ADJ_TICK; // the tick it has already
    return adjtimex(&now) < 0 ? -1 : 0;
}
static int set_host_name(void) {
    char name[65];
    return gethostname(name, sizeof name) ? -1 : sethostname(name, strlen(name));
}
static int kernel_log(void) { return klogctl(10 /* size of the buffer */, 0, 0) < 0 || klogctl(3, (char[64]){0}, 64) < 0 ? -1 : 0; }
static int real_time(void) {
    struct sched_param first = {.sched_priority = 1};
    return sched_setscheduler(0, SCHED_FIFO, &first);
}
static int bpf(void) { return passed(syscall(SYS_bpf, 0, "", 0), EINVAL); }
static int perf(void) {
    struct perf_event_attr counter = {.type = PERF_TYPE_SOFTWARE, .size = sizeof counter, .config = PERF_COUNT_SW_CPU_CLOCK};
    return syscall(SYS_perf_event_open, &counter, 0, -1, -1, 0) < 0 ? -1 : 0;
}
static int swap(void) { return passed(syscall(SYS_swapon, "/nowhere", 0), ENOENT); }
static int shared_memory(void) { return shmget(0x0be115c, 0, 0) < 0 ? -1 : 0; }
static int core_file(void) {
    struct rlimit limit;
    getrlimit(RLIMIT_CORE, &limit);
    errno = EPERM;
    return limit.rlim_max == 0 ? -1 : 0;
}
static int many_files(void) {
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit); // what the unit allows; refused where the unit forbids the call
    for (int n = 0; n < nofile; n++)
        if (open("/dev/null", O_RDONLY) < 0) return -1;
    return 0;
}
// More than any unit's LimitMEMLOCK, a page more at a time than the last, so that little is ever locked.
static int locked_memory(void) {
    struct rlimit limit;
    getrlimit(RLIMIT_MEMLOCK, &limit);
    errno = ENOMEM;
    if (limit.rlim_max != RLIM_INFINITY && limit.rlim_max < 300UL << 20) return -1;
    char *pages = mmap(0, 300UL << 20, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return pages == MAP_FAILED ? -1 : syscall(SYS_mlock2, pages, 300UL << 20, 1 /* MLOCK_ONFAULT */) ? -1 : 0;
}
static int raised_limit(void) { // of descriptors, above the hard one
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max = limit.rlim_max + 1;
    return setrlimit(RLIMIT_NOFILE, &limit);
}
static int priority(void) { return syscall(SYS_setpriority, 0, 0, -5); }
// TasksMax= is kept by the control group's pids.max. A container that was given none keeps no limit: EOPNOTSUPP.
static int many_tasks(void) {
    FILE *file = fopen("/proc/self/cgroup", "r");
    char line[256], path[400];
    long most = 0;
    while (file && fgets(line, sizeof line, file)) {
        char *group = strstr(line, "::") ? strstr(line, "::") + 2 : strstr(line, ":pids:") ? strstr(line, ":pids:") + 6 : 0;
        if (!group) continue;
        group[strcspn(group, "\n")] = 0;
        snprintf(path, sizeof path, "/sys/fs/cgroup%s%s/pids.max", strstr(line, ":pids:") ? "/pids" : "", group);
        FILE *limit = fopen(path, "r");
        if (limit && fscanf(limit, "%ld", &most) == 1) break;
    }
    errno = EOPNOTSUPP;
    if (most == 0) return -1;
    int failed = 0;
    for (long n = 0; n <= most && !failed; n++) {
        pid_t child = fork();
        if (child == 0) pause(), _exit(0);
        failed = child < 0 ? errno : 0;
    }
    signal(SIGTERM, SIG_IGN);
    kill(0, SIGTERM);
    errno = failed;
    return failed ? -1 : 0;
}
static int foreign_call(void) {
#ifdef __x86_64__
    long answer;
    __asm__ volatile("int $0x80" : "=a"(answer) : "a"(20L) : "r8", "r9", "r10", "r11", "memory");
    errno = (int)-answer;
    return answer < 0 ? -1 : 0;
#else
    errno = ENOSYS;
    return -1;
#endif
}
static int signal_same_user(void) { return kill(victim, 0); }

static const struct {
    const char *name;
    int (*attempt)(void);
} ATTEMPTS[] = {
    {"write-usr", usr}, {"write-etc", etc}, {"write-other-state", other_state}, {"write-configuration", configuration},
    {"write-node-state", node_write}, {"write-signer-state", signer_write}, {"write-ca-state", ca_write},
    {"read-shadow", shadow}, {"read-signer-state", signer_state}, {"read-node-state", node_state},
    {"read-other-node", other_node_state}, {"read-other-signer", other_signer_state}, {"read-ca-state", ca_state},
    {"read-credential-store", credstore}, {"read-home", home},
    {"read-tmp-of-others", others_tmp}, {"open-device", device}, {"see-process-1", proc_of_init},
    {"socket-packet", packet}, {"socket-netlink", netlink}, {"socket-raw", raw_ip}, {"connect-ip", connect_ip},
    {"ptrace", trace}, {"read-memory-of-process", memory}, {"signal-same-user", signal_same_user},
    {"mount", mount_tmpfs}, {"chroot", change_root}, {"load-module", module},
    {"load-module-of-file", module_of_file}, {"remove-module", module_removal}, {"read-modules", module_files}, {"make-device", node_of_device},
    {"setuid", become_root}, {"run-setuid-program", suid_program}, {"make-setuid-file", suid_file},
    {"map-write-execute", write_and_execute}, {"execute-written-page", execute_written},
    {"personality", change_personality}, {"namespace-user", user_namespace}, {"namespace-mount", mount_namespace},
    {"namespace-by-clone3", namespace_by_clone3}, {"write-proc-sys", proc_sys}, {"make-control-group", control_group},
    {"reboot", restart_machine}, {"set-clock", set_clock}, {"set-host-name", set_host_name},
    {"read-kernel-log", kernel_log}, {"real-time", real_time}, {"bpf", bpf}, {"perf-event", perf}, {"swap", swap},
    {"shared-memory-of-others", shared_memory}, {"core-file", core_file}, {"open-too-many-files", many_files},
    {"lock-too-much-memory", locked_memory}, {"raise-a-limit", raised_limit}, {"raise-priority", priority},
    {"start-too-many-tasks", many_tasks}, {"call-of-32-bit", foreign_call},
};

static void answer(const char *name, int (*attempt)(void)) {
    pid_t child = fork();
    if (child == 0) setpgid(0, 0), _exit(attempt() == 0 ? 0 : (errno ? errno : 255));
    int status;
    if (child < 0 || waitpid(child, &status, 0) != child) printf("%s not-tried\n", name);
    else if (WIFSIGNALED(status)) printf("%s SIG%s\n", name, sigabbrev_np(WTERMSIG(status)));
    else if (WEXITSTATUS(status) == 0) printf("%s done\n", name);
    else printf("%s %s\n", name, strerrorname_np(WEXITSTATUS(status)) ?: "unknown");
    fflush(stdout);
}

int main(int count, char **words) {
    if (count == 2 && strcmp(words[1], "--am-i-root") == 0) return geteuid() == 0 ? 0 : 1;
    if (count != 3) return fprintf(stderr, "usage: probe VICTIM-FILE FILES\n"), 2;
    if (access("/etc/container-of-the-sandbox-test", F_OK)) return fprintf(stderr, "only in the test's container\n"), 2;
    FILE *file = fopen(words[1], "r");
    if (!file || fscanf(file, "%ld", &victim) != 1) return perror(words[1]), 2;
    nofile = atoi(words[2]);
    for (size_t n = 0; n < sizeof ATTEMPTS / sizeof *ATTEMPTS; n++) answer(ATTEMPTS[n].name, ATTEMPTS[n].attempt);
    printf("end done\n");
    return 0;
}
