//! A SoftHSM token of a test's own, plain or behind the fault-injecting module.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use obelisk::crypto::routing::Crypto;
use obelisk::membership::consortium::Consortium;
use obelisk::membership::consortium::Spec;
use obelisk::node::signer::card::KeyCard;
use obelisk::types::signature::Algorithm;
use obelisk::types::signature::PublicKey;

use super::BINARY;

pub const PIN: &str = "canary-4711";

/// Where Debian, Fedora and SUSE put the module.
const MODULES: [&str; 4] = [
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib64/softhsm/libsofthsm2.so",
    "/usr/lib64/pkcs11/libsofthsm2.so",
    "/usr/lib64/libsofthsm2.so",
];

/// A token store in a temporary directory.
pub struct SoftHsm {
    pub directory: tempfile::TempDir,
    /// What signers load: SoftHSM, or p11-fault in front of it.
    pub module: PathBuf,
    pub environment: Vec<(String, String)>,
}

impl SoftHsm {
    /// A store with one token `obelisk`; `None`, loudly, where SoftHSM is not installed.
    pub fn new() -> Option<Self> {
        let module = MODULES.iter().map(PathBuf::from).find(|path| path.exists());
        let Some(module) = module else {
            eprintln!(
                "\nSKIPPED: SoftHSM is not installed (`./dev setup` installs it); tokens untested\n"
            );
            return None;
        };
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        fs::create_dir(at("tokens")).unwrap();
        let text = format!(
            "directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n",
            at("tokens").display()
        );
        fs::write(at("softhsm2.conf"), text).unwrap();
        let conf = at("softhsm2.conf").display().to_string();
        let environment = vec![("SOFTHSM2_CONF".to_owned(), conf)];
        let hsm = Self { module, directory, environment };
        hsm.make_token("obelisk");
        hsm.write_pin("pin", PIN);
        Some(hsm)
    }

    /// The same behind p11-fault, whose script is empty.
    pub fn faulty() -> Option<Self> {
        let mut hsm = Self::new()?;
        let home = hsm.directory.path().join("fault");
        fs::create_dir(&home).unwrap();
        let module = home.join("libp11_fault.so");
        fs::copy(fault_module(), &module).unwrap();
        fs::set_permissions(&module, fs::Permissions::from_mode(0o755)).unwrap();
        let target = std::mem::replace(&mut hsm.module, module);
        fs::write(home.join("target"), target.display().to_string()).unwrap();
        hsm.script("");
        Some(hsm)
    }

    pub fn make_token(&self, label: &str) {
        let mut command = Command::new("softhsm2-util");
        command.args([
            "--init-token",
            "--free",
            "--label",
            label,
            "--pin",
            PIN,
            "--so-pin",
            "8765",
        ]);
        run(command.envs(self.environment.iter().cloned()));
    }

    /// The slot of a token, as the module numbers it.
    pub fn slot(&self, label: &str) -> u64 {
        let mut list = Command::new(BINARY);
        list.args(["--json", "crypto", "list", "--module"]).arg(&self.module);
        let output = list.envs(self.environment.iter().cloned()).output().unwrap();
        let rows: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let row = rows.as_array().unwrap().iter().find(|row| row["label"] == label).unwrap();
        row["slot"].as_u64().unwrap()
    }

    /// What p11-fault breaks from now on.
    pub fn script(&self, faults: &str) {
        let home = self.directory.path().join("fault");
        let target = fs::read_to_string(home.join("target")).unwrap();
        // Replaced at once: the module must never read half a script.
        fs::write(home.join("new"), format!("target {target}\n{faults}\n")).unwrap();
        fs::rename(home.join("new"), home.join("p11-fault.script")).unwrap();
    }

    /// What p11-fault counted.
    pub fn counters(&self) -> BTreeMap<String, u64> {
        let path = self.directory.path().join("fault/p11-fault.counters");
        let text = fs::read_to_string(path).unwrap_or_default();
        let pairs = text.lines().filter_map(|line| line.split_once(' '));
        pairs.map(|(name, count)| (name.to_owned(), count.parse().unwrap_or(0))).collect()
    }

    pub fn write_pin(&self, name: &str, pin: &str) -> PathBuf {
        let path = self.directory.path().join(name);
        let _ = fs::remove_file(&path);
        fs::write(&path, format!("{pin}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
        path
    }

    /// Runs `obelisk crypto ...` on the token `label`.
    pub fn crypto(&self, command: &str, label: &str, more: &[&str]) -> std::process::Output {
        let mut process = Command::new(BINARY);
        process.args(["crypto", command, "--token", label, "--module"]).arg(&self.module);
        process.arg("--pin").arg(self.directory.path().join("pin")).args(more);
        process.envs(self.environment.iter().cloned()).output().unwrap()
    }

    /// Makes a key and gives its card's path and its public half.
    pub fn keygen(&self, label: &str, id: &str, algorithm: &str) -> (PathBuf, PublicKey) {
        let card = self.directory.path().join(format!("{label}-{id}.card.toml"));
        let out = card.display().to_string();
        let more = ["--id", id, "--algorithm", algorithm, "--out", &out];
        let output = self.crypto("keygen", label, &more);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{errors}");
        let (_, public) = KeyCard::load(&card, &Crypto::portable()).unwrap();
        (card, public)
    }

    /// A second token `spare`, and one key with the id 01, made outside, on both.
    pub fn keep_on_two(&self) -> PublicKey {
        self.make_token("spare");
        let outside = tempfile::tempdir().unwrap();
        let spec = Spec::local("other", 1, Algorithm::EcdsaP256, 1_700_000_000_000);
        let made = Consortium::make(&outside.path().join("net"), &spec, &Crypto::portable());
        let key = made.unwrap().members[0].folder.join("key.pem").display().to_string();
        let [first, second] = ["obelisk", "spare"].map(|label| {
            let card = self.directory.path().join(format!("{label}.toml"));
            let more = ["--id", "01", "--import", &key, "--out", &card.display().to_string()];
            let output = self.crypto("keygen", label, &more);
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            KeyCard::load(&card, &Crypto::portable()).unwrap().1
        });
        assert_eq!(first, second);
        first
    }

    /// The `[[token]]` table of a signer's configuration.
    pub fn token_section(&self, label: &str) -> String {
        let (module, pin) = (&self.module, self.directory.path().join("pin"));
        format!(
            "[[token]]\nname = \"{label}\"\nmodule = {module:?}\nlabel = \"{label}\"\npin = {pin:?}\n\
             sessions = 2\ndeadline_ms = 1000\n"
        )
    }
}

/// Builds p11-fault once; it is a package of its own and never part of the product.
fn fault_module() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let package = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/p11-fault");
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("p11-fault");
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
        cargo.args(["build", "--release", "--locked", "--quiet"]).current_dir(package);
        run(cargo.env("CARGO_TARGET_DIR", &target).env_remove("CARGO_PROFILE_RELEASE_OPT_LEVEL"));
        target.join("release/libp11_fault.so")
    })
}

pub fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {errors}");
}
