//! p11-fault: a PKCS#11 module that forwards to another one and breaks what its script says.
//!
//! Script: the file `p11-fault.script` beside this library, read again whenever it changes, so that
//! each test copies the library into a folder of its own. Counters go to `p11-fault.counters`, one
//! `name count` per line. Faults depend on call counts alone: a run can be repeated.
//!
//! ```text
//! target /usr/lib/softhsm/libsofthsm2.so
//! fault sign after=5 every=3 times=2 do=rv value=0x30
//! ```
//!
//! | word | meaning |
//! | --- | --- |
//! | initialize slots login open find sign-init sign info token mechanisms | the function; `sign` counts real signatures |
//! | after=N | N calls pass first, counted since the script was read (default 0) |
//! | every=N | then each N-th is hit (default 1) |
//! | times=N | at most N hits (default: no end) |
//! | slot=N | only calls on sessions of this slot are counted and hit |
//! | do=rv value=X | answers X without asking the target |
//! | do=latency ms=N | waits, then forwards |
//! | do=dead-session | closes the real session, answers CKR_SESSION_HANDLE_INVALID |
//! | do=logout | logs out for real, answers CKR_USER_NOT_LOGGED_IN |
//! | do=gone | from now on every call answers CKR_DEVICE_REMOVED, until C_Initialize |
//! | do=wrong | forwards, then flips one bit of the signature |
//! | do=none | on `slots`: from now on there is no slot, until C_Initialize |
//! | do=sessions value=N | on `token`: states N sessions at most |
//! | do=full value=N | on `open`: CKR_SESSION_COUNT while N sessions are open |
//! | do=clock | on `token`: states a clock that is no time, and pads its texts with NULs |
//! | do=hide value=X | on `mechanisms`: leaves the mechanism X out |
//! | do=hang | never returns |
//! | do=crash | ends the process with SIGABRT |

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::ffi::c_void;
use std::fs;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::OnceLock;
use std::sync::PoisonError;
use std::time::Duration;
use std::time::SystemTime;

use cryptoki_sys::*;

type Target = CK_FUNCTION_LIST;

struct Loaded {
    _library: libloading::Library,
    functions: Target,
    ours: Target,
}

// SAFETY: function pointers of a loaded library, never changed after loading.
unsafe impl Send for Loaded {}
// SAFETY: as above.
unsafe impl Sync for Loaded {}

#[derive(Clone, Debug)]
struct Fault {
    at: String,
    after: u64,
    every: u64,
    times: u64,
    hits: u64,
    kind: String,
    value: CK_RV,
    ms: u64,
    slot: Option<CK_SLOT_ID>,
    /// Calls that this fault counted.
    calls: u64,
}

#[derive(Default)]
struct State {
    stamp: Option<(SystemTime, u64)>,
    faults: Vec<Fault>,
    /// Slot of each session.
    slots: BTreeMap<CK_SESSION_HANDLE, CK_SLOT_ID>,
    /// Calls and hits since the process started.
    totals: BTreeMap<String, u64>,
    gone: bool,
    /// No slot is shown, whatever the script says now.
    empty: bool,
}

static LOADED: OnceLock<Loaded> = OnceLock::new();
static STATE: Mutex<Option<State>> = Mutex::new(None);

fn state() -> MutexGuard<'static, Option<State>> {
    let mut state = STATE.lock().unwrap_or_else(PoisonError::into_inner);
    state.get_or_insert_with(State::default);
    state
}

/// The folder of this library's file.
fn home() -> PathBuf {
    // SAFETY: dladdr fills the structure for an address inside this library.
    unsafe {
        let mut info: libc::Dl_info = std::mem::zeroed();
        libc::dladdr(C_GetFunctionList as *const c_void, &mut info);
        let path = CStr::from_ptr(info.dli_fname).to_string_lossy().into_owned();
        PathBuf::from(path).parent().expect("a library lies in a folder").to_owned()
    }
}

fn script() -> String {
    let path = home().join("p11-fault.script");
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn loaded() -> &'static Loaded {
    LOADED.get_or_init(|| {
        let script = script();
        let target = script.lines().find_map(|line| line.strip_prefix("target "));
        let target = target.expect("the script names its target").trim();
        // SAFETY: the target is a PKCS#11 module; its list is copied once.
        unsafe {
            let library = libloading::Library::new(target).expect("the target loads");
            let get: libloading::Symbol<unsafe extern "C" fn(*mut *mut CK_FUNCTION_LIST) -> CK_RV> =
                library.get(b"C_GetFunctionList\0").expect("the target is a module");
            let mut list = std::ptr::null_mut();
            assert_eq!(get(&mut list), CKR_OK, "the target gives its functions");
            let functions = *list;
            let mut ours = functions;
            ours.C_GetFunctionList = Some(C_GetFunctionList);
            ours.C_Initialize = Some(initialize);
            ours.C_GetSlotList = Some(slot_list);
            ours.C_GetTokenInfo = Some(token_info);
            ours.C_GetMechanismList = Some(mechanism_list);
            ours.C_Login = Some(login);
            ours.C_OpenSession = Some(open_session);
            ours.C_CloseSession = Some(close_session);
            ours.C_Finalize = Some(finalize);
            ours.C_GetSessionInfo = Some(session_info);
            ours.C_FindObjectsInit = Some(find_init);
            ours.C_SignInit = Some(sign_init);
            ours.C_Sign = Some(sign);
            Loaded { _library: library, functions, ours }
        }
    })
}

fn parse(script: &str) -> Vec<Fault> {
    let mut faults = Vec::new();
    for line in script.lines().filter_map(|line| line.strip_prefix("fault ")) {
        let mut words = line.split_whitespace();
        let mut fault = Fault {
            at: words.next().expect("a fault names its function").to_owned(),
            after: 0,
            every: 1,
            times: u64::MAX,
            hits: 0,
            kind: String::new(),
            value: CKR_GENERAL_ERROR,
            ms: 0,
            slot: None,
            calls: 0,
        };
        for word in words {
            let (key, value) = word.split_once('=').expect("words are key=value");
            let number = || match value.strip_prefix("0x") {
                Some(hex) => u64::from_str_radix(hex, 16).expect("a number"),
                None => value.parse().expect("a number"),
            };
            match key {
                "after" => fault.after = number(),
                "every" => fault.every = number(),
                "times" => fault.times = number(),
                "do" => fault.kind = value.to_owned(),
                "value" => fault.value = number() as CK_RV,
                "ms" => fault.ms = number(),
                "slot" => fault.slot = Some(number() as CK_SLOT_ID),
                _ => panic!("unknown word {key}"),
            }
        }
        faults.push(fault);
    }
    faults
}

/// Counts a call and says what breaks it.
fn hit(name: &str, session: Option<CK_SESSION_HANDLE>) -> Option<Fault> {
    let path = home().join("p11-fault.script");
    let stamp = fs::metadata(&path).ok().and_then(|m| Some((m.modified().ok()?, m.len())));
    let mut guard = state();
    let state = guard.as_mut().expect("made above");
    if state.stamp != stamp {
        state.stamp = stamp;
        state.faults = parse(&script());
        state.gone = false;
    }
    *state.totals.entry(name.to_owned()).or_default() += 1;
    let slot = session.and_then(|session| state.slots.get(&session).copied());
    let mut found = None;
    let fits =
        |fault: &&mut Fault| fault.at == name && (fault.slot.is_none() || fault.slot == slot);
    for fault in state.faults.iter_mut().filter(fits) {
        fault.calls += 1;
        let due = fault.calls > fault.after
            && (fault.calls - fault.after - 1).is_multiple_of(fault.every);
        if due && fault.hits < fault.times {
            fault.hits += 1;
            found = Some(fault.clone());
            break;
        }
    }
    if let Some(fault) = &found {
        *state.totals.entry(format!("{name}-{}", fault.kind)).or_default() += 1;
        state.gone |= fault.kind == "gone";
        state.empty |= fault.kind == "none";
    }
    if found.is_none() && state.gone {
        found = parse("fault any do=rv value=0x32").pop();
    }
    let counters: String =
        state.totals.iter().map(|(name, count)| format!("{name} {count}\n")).collect();
    let _ = fs::write(home().join("p11-fault.counters"), counters);
    found
}

/// What a fault answers; `None` forwards to the target.
fn answer(fault: &Option<Fault>, session: Option<CK_SESSION_HANDLE>) -> Option<CK_RV> {
    let fault = fault.as_ref()?;
    let target = &loaded().functions;
    match fault.kind.as_str() {
        "rv" => Some(fault.value),
        "latency" => {
            std::thread::sleep(Duration::from_millis(fault.ms));
            None
        }
        "dead-session" => {
            // SAFETY: the target's own function with a handle it gave.
            unsafe { target.C_CloseSession.expect("it closes sessions")(session?) };
            if let Some(state) = state().as_mut() {
                state.slots.remove(&session?);
            }
            Some(CKR_SESSION_HANDLE_INVALID)
        }
        "logout" => {
            // SAFETY: as above.
            unsafe { target.C_Logout.expect("it logs out")(session?) };
            Some(CKR_USER_NOT_LOGGED_IN)
        }
        "gone" => Some(CKR_DEVICE_REMOVED),
        "full" => {
            let open = state().as_ref().map_or(0, |state| state.slots.len());
            (open as CK_RV >= fault.value).then_some(CKR_SESSION_COUNT)
        }
        "wrong" | "sessions" | "none" | "clock" | "hide" => None,
        "hang" => loop {
            std::thread::sleep(Duration::from_secs(3600));
        },
        "crash" => std::process::abort(),
        other => panic!("unknown fault {other}"),
    }
}

unsafe extern "C" fn initialize(arguments: *mut c_void) -> CK_RV {
    if let Some(state) = state().as_mut() {
        (state.gone, state.empty) = (false, false);
    }
    let fault = hit("initialize", None);
    match answer(&fault, None) {
        Some(value) => value,
        // SAFETY: forwards the caller's arguments.
        None => unsafe { loaded().functions.C_Initialize.expect("it initialises")(arguments) },
    }
}

unsafe extern "C" fn slot_list(
    present: CK_BBOOL,
    slots: *mut CK_SLOT_ID,
    count: *mut CK_ULONG,
) -> CK_RV {
    let fault = hit("slots", None);
    if let Some(value) = answer(&fault, None) {
        return value;
    }
    if state().as_ref().is_some_and(|state| state.empty) {
        // SAFETY: the caller gives a place for the count.
        unsafe { *count = 0 };
        return CKR_OK;
    }
    // SAFETY: forwards the caller's arguments.
    unsafe { loaded().functions.C_GetSlotList.expect("it lists")(present, slots, count) }
}

unsafe extern "C" fn token_info(slot: CK_SLOT_ID, info: *mut CK_TOKEN_INFO) -> CK_RV {
    let fault = hit("token", None);
    if let Some(value) = answer(&fault, None) {
        return value;
    }
    // SAFETY: forwards the caller's arguments; the target filled the structure.
    unsafe {
        let value = loaded().functions.C_GetTokenInfo.expect("it describes")(slot, info);
        match fault {
            Some(fault) if fault.kind == "sessions" => {
                (*info).ulMaxSessionCount = fault.value;
                (*info).ulMaxRwSessionCount = fault.value;
            }
            Some(fault) if fault.kind == "clock" => {
                (*info).flags |= CKF_CLOCK_ON_TOKEN;
                (*info).utcTime = *b"\0\0no time\xff\xff 2026";
                pad(&mut (*info).label);
                pad(&mut (*info).serialNumber);
                pad(&mut (*info).model);
            }
            _ => {}
        }
        value
    }
}

/// NULs in place of the trailing spaces.
fn pad(field: &mut [CK_UTF8CHAR]) {
    field.iter_mut().rev().take_while(|byte| **byte == b' ').for_each(|byte| *byte = 0);
}

unsafe extern "C" fn mechanism_list(
    slot: CK_SLOT_ID,
    list: *mut CK_MECHANISM_TYPE,
    count: *mut CK_ULONG,
) -> CK_RV {
    // A question for the length alone is answered with one too many.
    let fault = if list.is_null() { None } else { hit("mechanisms", None) };
    if let Some(value) = answer(&fault, None) {
        return value;
    }
    // SAFETY: forwards the caller's arguments; the target filled the list.
    unsafe {
        let ask = loaded().functions.C_GetMechanismList.expect("it lists mechanisms");
        let value = ask(slot, list, count);
        if value == CKR_OK
            && let Some(fault) = fault.filter(|fault| fault.kind == "hide")
        {
            let filled = std::slice::from_raw_parts_mut(list, *count as usize);
            let kept: Vec<_> = filled.iter().copied().filter(|one| *one != fault.value).collect();
            filled[..kept.len()].copy_from_slice(&kept);
            *count = kept.len() as CK_ULONG;
        }
        value
    }
}

unsafe extern "C" fn close_session(session: CK_SESSION_HANDLE) -> CK_RV {
    if let Some(state) = state().as_mut() {
        state.slots.remove(&session);
    }
    // SAFETY: forwards the caller's arguments.
    unsafe { loaded().functions.C_CloseSession.expect("it closes sessions")(session) }
}

unsafe extern "C" fn finalize(reserved: *mut c_void) -> CK_RV {
    if let Some(state) = state().as_mut() {
        state.slots.clear();
    }
    // SAFETY: forwards the caller's arguments.
    unsafe { loaded().functions.C_Finalize.expect("it finalises")(reserved) }
}

unsafe extern "C" fn login(
    session: CK_SESSION_HANDLE,
    user: CK_USER_TYPE,
    pin: *mut CK_UTF8CHAR,
    length: CK_ULONG,
) -> CK_RV {
    let fault = hit("login", Some(session));
    match answer(&fault, Some(session)) {
        Some(value) => value,
        // SAFETY: forwards the caller's arguments.
        None => unsafe {
            loaded().functions.C_Login.expect("it logs in")(session, user, pin, length)
        },
    }
}

unsafe extern "C" fn open_session(
    slot: CK_SLOT_ID,
    flags: CK_FLAGS,
    application: *mut c_void,
    notify: CK_NOTIFY,
    session: *mut CK_SESSION_HANDLE,
) -> CK_RV {
    let fault = hit("open", None);
    match answer(&fault, None) {
        Some(value) => value,
        // SAFETY: forwards the caller's arguments.
        None => unsafe {
            let open = loaded().functions.C_OpenSession.expect("it opens sessions");
            let value = open(slot, flags, application, notify, session);
            if value == CKR_OK
                && let Some(state) = state().as_mut()
            {
                state.slots.insert(*session, slot);
            }
            value
        },
    }
}

unsafe extern "C" fn session_info(session: CK_SESSION_HANDLE, info: *mut CK_SESSION_INFO) -> CK_RV {
    let fault = hit("info", Some(session));
    match answer(&fault, Some(session)) {
        Some(value) => value,
        // SAFETY: forwards the caller's arguments.
        None => unsafe {
            loaded().functions.C_GetSessionInfo.expect("it describes")(session, info)
        },
    }
}

unsafe extern "C" fn find_init(
    session: CK_SESSION_HANDLE,
    template: *mut CK_ATTRIBUTE,
    count: CK_ULONG,
) -> CK_RV {
    let fault = hit("find", Some(session));
    match answer(&fault, Some(session)) {
        Some(value) => value,
        // SAFETY: forwards the caller's arguments.
        None => unsafe {
            loaded().functions.C_FindObjectsInit.expect("it finds")(session, template, count)
        },
    }
}

unsafe extern "C" fn sign_init(
    session: CK_SESSION_HANDLE,
    mechanism: *mut CK_MECHANISM,
    key: CK_OBJECT_HANDLE,
) -> CK_RV {
    let fault = hit("sign-init", Some(session));
    match answer(&fault, Some(session)) {
        Some(value) => value,
        // SAFETY: forwards the caller's arguments.
        None => unsafe {
            loaded().functions.C_SignInit.expect("it signs")(session, mechanism, key)
        },
    }
}

unsafe extern "C" fn sign(
    session: CK_SESSION_HANDLE,
    data: *mut CK_BYTE,
    length: CK_ULONG,
    signature: *mut CK_BYTE,
    signature_length: *mut CK_ULONG,
) -> CK_RV {
    // A question for the length is no signature.
    let fault = if signature.is_null() { None } else { hit("sign", Some(session)) };
    if let Some(value) = answer(&fault, Some(session)) {
        return value;
    }
    // SAFETY: forwards the caller's arguments; the signature has the length the target states.
    unsafe {
        let function = loaded().functions.C_Sign.expect("it signs");
        let value = function(session, data, length, signature, signature_length);
        if value == CKR_OK && fault.is_some_and(|fault| fault.kind == "wrong") {
            *signature.add(*signature_length as usize / 2) ^= 1;
        }
        value
    }
}

/// The module's one entry.
///
/// # Safety
/// `list` must be a valid place for a pointer, as PKCS #11 says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_GetFunctionList(list: *mut *mut CK_FUNCTION_LIST) -> CK_RV {
    let ours = &raw const loaded().ours;
    // SAFETY: the caller gives a place; the list lives as long as the process.
    unsafe { *list = ours.cast_mut() };
    CKR_OK
}
