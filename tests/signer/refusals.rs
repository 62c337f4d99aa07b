//! What a signer refuses at its start and on its socket, each with one clear error.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use obelisk::membership::consortium::read_genesis;
use obelisk::node::config::SignerMode;
use obelisk::signer::remote::RemoteSigner;

use super::BINARY;
use super::SignerProcess;
use super::place;
use super::refused;

/// A network of one whose key lies with the signer; its signer's configuration.
fn network(directory: &Path) -> std::path::PathBuf {
    let out = directory.join("net");
    let made = Command::new(BINARY)
        .args(["network", "create", "--validators", "1", "--signer", "process", "--out"])
        .arg(&out)
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    out.join("org1/signer.toml")
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn change(config: &Path, from: &str, to: &str) {
    let text = fs::read_to_string(config).unwrap();
    assert!(text.contains(from), "{text}");
    fs::write(config, text.replace(from, to)).unwrap();
}

/// Each planted fault is one error that names cause and fix; the untouched configuration starts.
#[test]
fn every_fault_of_a_configuration_is_one_clear_error() {
    let directory = tempfile::tempdir().unwrap();
    let config = network(directory.path());
    let home = config.with_file_name("signer");
    let good = fs::read_to_string(&config).unwrap();
    for (from, to, words) in [
        ("[signer]\n", "[signer]\nsokcet = \"x\"\n", "did you mean"),
        ("signer/validator.pem", "signer/nothing.pem", "nothing.pem"),
        ("../genesis.bin", "../genesis.txt", "genesis.txt"),
        ("users = []", "users = [\"no-such-user\"]", "no-such-user"),
        ("signer/validator.pem", "admin/admin/key.pem", "no validator of the network"),
    ] {
        change(&config, from, to);
        let (code, errors) = refused(&config, &[]);
        assert_eq!(code, 2, "{errors}");
        assert!(errors.contains(words), "{words}: {errors}");
        fs::write(&config, &good).unwrap();
    }
    mode(&home.join("validator.pem"), 0o644);
    assert!(refused(&config, &[]).1.contains("can be read by others"));
    mode(&home.join("validator.pem"), 0o600);
    mode(&home, 0o777);
    assert!(refused(&config, &[]).1.contains("writable by others"));
    mode(&home, 0o700);
    let signer = SignerProcess::start(&config, &home.join("signer.sock"), &[]);
    assert!(refused(&config, &[]).1.contains("another"), "one signer per socket and guard");
    drop(signer);
}

/// A node does not ask a socket that is open to all, nor one of another user.
#[test]
fn a_node_does_not_trust_a_socket_of_others() {
    let directory = tempfile::tempdir().unwrap();
    let config = network(directory.path());
    let socket = config.with_file_name("signer").join("signer.sock");
    let _signer = SignerProcess::start(&config, &socket, &[]);
    let status = || {
        let output =
            Command::new(BINARY).args(["signer", "status", "--config"]).arg(&config).output();
        let output = output.unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    assert_eq!(status().0, Some(0));
    mode(&socket, 0o666);
    let (code, errors) = status();
    assert_eq!(code, Some(3), "{errors}");
    assert!(errors.contains("open to all"), "{errors}");
    let node = config.with_file_name("node.toml");
    let mut settings = obelisk::node::config::Config::load(&node).unwrap();
    assert_eq!(settings.signer.mode, SignerMode::Process);
    settings.signer.user = "4711".into();
    mode(&socket, 0o600);
    let place = obelisk::signer::socket::connect(&settings.signer.socket, 4711);
    assert!(place.err().unwrap().to_string().contains("belongs to user"));
}

/// A node whose TLS key is said to be with a signer that has none of that name would serve nobody: it
/// does not start, and says which section is missing.
#[test]
fn a_tls_key_that_the_signer_lacks_stops_the_start() {
    let directory = tempfile::tempdir().unwrap();
    let config = network(directory.path());
    let socket = config.with_file_name("signer").join("signer.sock");
    let _signer = SignerProcess::start(&config, &socket, &[]);
    let node = config.with_file_name("node.toml");
    change(&node, "tls = false", "tls = true");
    let started = Command::new(BINARY).args(["node", "--config"]).arg(&node).output().unwrap();
    let errors = String::from_utf8_lossy(&started.stderr);
    assert_eq!(started.status.code(), Some(70), "{errors}");
    let told = ["signer.tls", "does not hold the key", "[[tls]]"];
    assert!(told.iter().all(|words| errors.contains(words)), "{errors}");
}

/// Another user, root among them, is told whom the signer answers and the command to run.
#[test]
fn the_wrong_user_is_told_whom_the_signer_answers() {
    if !nix::unistd::geteuid().is_root() {
        println!("SKIPPED: only root can ask as another user");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let config = network(directory.path());
    let home = config.with_file_name("signer");
    let _signer = SignerProcess::start(&config, &home.join("signer.sock"), &[]);
    for folder in [directory.path(), &directory.path().join("net"), config.parent().unwrap()] {
        mode(folder, 0o711);
    }
    let status = || {
        use std::os::unix::process::CommandExt;
        let mut command = Command::new(BINARY);
        command.args(["signer", "status", "--config"]).arg(&config).uid(NOBODY);
        match command.output() {
            Ok(output) => Some(String::from_utf8_lossy(&output.stderr).into_owned()),
            Err(error) => {
                println!("SKIPPED: another user cannot start {BINARY}: {error}");
                None
            }
        }
    };
    mode(&config, 0o644);
    let Some(errors) = status() else { return };
    assert!(errors.contains("may not look into the directory"), "{errors}");
    assert!(errors.contains("sudo -u USER"), "{errors}");
    mode(&home, 0o711);
    let errors = status().unwrap();
    let fix = format!("fix: sudo -u root obelisk signer status --config {}", config.display());
    for words in ["answers the users root only", "this is ", &fix, "signer.users"] {
        assert!(errors.contains(words), "no {words:?} in {errors}");
    }
    mode(&config, 0o600);
    let errors = status().unwrap();
    assert!(errors.contains("may read it"), "{errors}");
}

/// What `signer status` says where it fails, and its exit code.
fn status(config: &Path) -> (Option<i32>, String) {
    let mut command = Command::new(BINARY);
    let output = command.args(["signer", "status", "--config"]).arg(config).output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// A signer that hangs is not started once more, and a socket that changed hands is called so.
#[test]
fn a_signer_that_hangs_or_lost_its_socket_is_told_apart() {
    use nix::sys::signal::Signal;
    use nix::sys::signal::kill;

    let directory = tempfile::tempdir().unwrap();
    let config = network(directory.path());
    let socket = config.with_file_name("signer").join("signer.sock");
    let (code, errors) = status(&config);
    assert_eq!(code, Some(3), "{errors}");
    assert!(errors.contains("fix: start it"), "{errors}");
    let signer = SignerProcess::start(&config, &socket, &[]);
    let id = nix::unistd::Pid::from_raw(i32::try_from(signer.child.id()).unwrap());
    kill(id, Signal::SIGSTOP).unwrap();
    let (code, errors) = status(&config);
    kill(id, Signal::SIGCONT).unwrap();
    assert_eq!(code, Some(3), "{errors}");
    assert!(errors.contains("restart it if it hangs") && !errors.contains("start it:"), "{errors}");
    if nix::unistd::geteuid().is_root() {
        std::os::unix::fs::chown(&socket, Some(NOBODY), None).unwrap();
        let (_, errors) = status(&config);
        assert!(errors.contains("changed its owner"), "{errors}");
        assert!(!errors.contains("answers the users"), "{errors}");
    }
}

/// A damaged record is refused with the one way out, which works and keeps what is left of it.
#[test]
fn a_damaged_record_is_renewed() {
    let directory = tempfile::tempdir().unwrap();
    let config = network(directory.path());
    let home = config.with_file_name("signer");
    let genesis = read_genesis(&directory.path().join("net/genesis.bin")).unwrap();
    let (_, replica) = genesis.replicas.iter().next().unwrap();
    let signer = SignerProcess::start(&config, &home.join("signer.sock"), &[]);
    let (place, chain) = (place(&home.join("signer.sock")), genesis.chain_id());
    drop(RemoteSigner::open(place, chain, replica.key.clone(), false).unwrap());
    drop(signer);
    let log = home.join("guard/org1_validator.slots");
    let mut bytes = fs::read(&log).unwrap();
    bytes[20] ^= 1;
    fs::write(&log, &bytes).unwrap();
    let (code, errors) = refused(&config, &[]);
    assert_eq!(code, 2, "{errors}");
    assert!(errors.contains("damaged at byte"), "{errors}");
    assert!(errors.contains("fix: put no old copy in its place"), "{errors}");
    assert!(errors.contains("obelisk signer renew"), "{errors}");
    let renewed = Command::new(BINARY)
        .args(["signer", "renew", "--validator", "org1/validator", "--config"])
        .arg(&config)
        .output()
        .unwrap();
    assert!(renewed.status.success(), "{}", String::from_utf8_lossy(&renewed.stderr));
    assert_eq!(fs::read(home.join("guard/org1_validator.slots.damaged.0")).unwrap(), bytes);
    let _signer = SignerProcess::start(&config, &home.join("signer.sock"), &[]);
}

/// Commands on a record are refused to a user whose files would shut the signer out.
#[test]
fn a_record_is_changed_by_its_owner_alone() {
    if !nix::unistd::geteuid().is_root() {
        println!("SKIPPED: only root can give a folder away");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let config = network(directory.path());
    let home = config.with_file_name("signer");
    std::os::unix::fs::chown(&home, Some(NOBODY), None).unwrap();
    let out = directory.path().join("record");
    for command in [&["renew"][..], &["export", "--out", &out.display().to_string()]] {
        let output = Command::new(BINARY)
            .arg("signer")
            .args(command)
            .args(["--validator", "org1/validator", "--config"])
            .arg(&config)
            .output()
            .unwrap();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{errors}");
        assert!(errors.contains("would shut its signer out"), "{errors}");
        assert!(errors.contains("fix: sudo -u ") && !home.join("guard").exists(), "{errors}");
    }
}

const NOBODY: u32 = 65_534;
