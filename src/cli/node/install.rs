//! `obelisk node install`: puts a validator that was made elsewhere where the systemd units look.
//!
//! ```text
//! FOLDER/node.toml            -> /etc/obelisk/NAME/node.toml, genesis.bin, identity/
//! FOLDER/signer.toml          -> /etc/obelisk/NAME/signer.toml
//!   keys in files             -> /var/lib/obelisk-signer/NAME/*.pem, mode 0600
//!   the token's PIN           -> /etc/credstore/obelisk-NAME.pin, which systemd hands to the signer
//! data, socket, guard         made there by the services
//! ```
//!
//! Files are copied, none is overwritten, and node.toml comes last: a unit without it does not
//! start. A record of signed slots is never copied: a key that has signed moves with `obelisk
//! signer export`.

use std::fs;
use std::os::unix::fs::chown;
use std::path::Path;
use std::path::PathBuf;

use clap::Args;
use zeroize::Zeroizing;

use crate::cli::Context;
use crate::cli::failure::Exit;
use crate::cli::failure::Failure;
use crate::cli::output::Cell;
use crate::cli::signer;
use crate::membership::msp;
use crate::membership::msp::Msp;
use crate::membership::msp::MspError;
use crate::node::config::Config;
use crate::node::config::SignerMode;
use crate::node::signer::config::SignerConfig;
use crate::node::users;

#[derive(Args, Debug)]
pub struct Install {
    /// Folder with node.toml and, where the key is a signer's, signer.toml; as `network create`
    /// makes one per organisation
    #[arg(value_name = "FOLDER")]
    from: PathBuf,
    /// Name of the instance: obelisk@NAME
    #[arg(long)]
    name: String,
    /// Put it below this folder instead of /, for an image
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
    /// User of the services
    #[arg(long, default_value = "obelisk")]
    user: String,
}

/// Where things go, and to whom.
struct Places<'a> {
    root: &'a Path,
    etc: PathBuf,
    signer: PathBuf,
    name: &'a str,
    user: u32,
}

pub fn run(install: &Install, context: &Context) -> Result<(), Failure> {
    let name = &install.name;
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
    if name.is_empty() || !name.chars().all(plain) {
        let cause = format!("{name:?} is no name of an instance");
        return Err(Failure::usage(cause, "use a-z, 0-9, '-' and '_'"));
    }
    let user = users::id_of(&install.user)
        .map_err(|reason| Failure::usage(reason, "install the package, which makes the user"))?;
    let places = Places {
        root: &install.root,
        etc: Path::new("/etc/obelisk").join(name),
        signer: Path::new("/var/lib/obelisk-signer").join(name),
        name,
        user,
    };
    let path = install.from.join("node.toml");
    let config = Config::load(&path).map_err(|error| super::config_failure(&error))?;
    let signer = match config.signer.mode {
        SignerMode::Embedded => None,
        SignerMode::Process => {
            let path = install.from.join("signer.toml");
            let loaded = SignerConfig::load(&path);
            Some(loaded.map_err(|error| signer::config_failure(&error, "docs/signer.md"))?)
        }
    };
    check_unused(&config, signer.as_ref())?;
    if places.at(&places.etc).join("node.toml").exists() {
        let cause = format!("{} holds a node already", places.etc.display());
        return Err(Failure::usage(cause, "choose another --name, or move that folder away"));
    }
    let stored = places.store(config, signer).map_err(|error| {
        Failure::of(Exit::Usage, &error, "run it as root; move away what a broken attempt left")
    });
    report(&places, stored?, context);
    Ok(())
}

/// A key that has signed must keep its one record.
fn check_unused(config: &Config, signer: Option<&SignerConfig>) -> Result<(), Failure> {
    let records = match signer {
        None => vec![config.node.data.join("guard/slots.log")],
        Some(signer) => {
            let entries = fs::read_dir(&signer.signer.data).into_iter().flatten().flatten();
            let paths = entries.map(|entry| entry.path());
            paths.filter(|path| path.extension().is_some_and(|e| e == "slots")).collect()
        }
    };
    match records.into_iter().find(|path| path.exists()) {
        None => Ok(()),
        Some(path) => {
            let cause = format!("the key has signed already: {} is its record", path.display());
            let fix = "a record moves alone: `obelisk signer export` here, `import` there \
                       (docs/signer.md)";
            Err(Failure::new(Exit::Refused, cause, fix))
        }
    }
}

impl Places<'_> {
    fn at(&self, place: &Path) -> PathBuf {
        self.root.join(place.strip_prefix("/").unwrap_or(place))
    }

    /// Writes everything; true where a signer is part of it.
    fn store(&self, mut config: Config, signer: Option<SignerConfig>) -> Result<bool, MspError> {
        let etc = self.at(&self.etc);
        let (genesis, identity) = (config.node.genesis.clone(), config.node.identity.clone());
        msp::make_folder(&etc)?;
        self.give(&etc)?;
        msp::write_new(&etc.join("genesis.bin"), &read(&genesis)?, 0o644)?;
        Msp::load(&identity)?.store(&etc.join("identity"))?;
        self.give_all(&etc.join("identity"))?;
        config.node.data = Path::new("/var/lib/obelisk").join(self.name);
        config.node.identity = "identity".into();
        config.node.genesis = "genesis.bin".into();
        let is_process = signer.is_some();
        if let Some(mut signer) = signer {
            let run = Path::new("/run/obelisk-signer").join(self.name).join("signer.sock");
            config.signer.socket.clone_from(&run);
            signer.signer.socket = run;
            signer.signer.data = self.signer.join("guard");
            self.store_signer(signer)?;
        }
        msp::write_new(&etc.join("node.toml"), config.to_toml().as_bytes(), 0o644)?;
        Ok(is_process)
    }

    fn store_signer(&self, mut signer: SignerConfig) -> Result<(), MspError> {
        let home = self.at(&self.signer);
        msp::make_folder(&home)?;
        let keys = signer.tls.iter_mut().map(|section| &mut section.key);
        let validators = signer.validator.iter_mut().map(|section| {
            section.genesis = "genesis.bin".into();
            &mut section.key
        });
        for (i, key) in validators.chain(keys).enumerate().filter(|(_, key)| !key.is_on_token()) {
            let file = format!("key-{i}.pem");
            msp::write_key(&home.join(&file), &msp::read_key(&key.file)?)?;
            key.file = self.signer.join(file);
        }
        self.give_all(&home)?;
        for (i, token) in signer.token.iter_mut().enumerate() {
            if token.pin.as_os_str().is_empty() {
                continue;
            }
            let pin = Zeroizing::new(read(&token.pin)?);
            // The unit loads the first; others need a line of their own in a drop-in.
            token.use_credential("pin", i);
            let store = self.at(Path::new("/etc/credstore"));
            msp::make_folder(&store)?;
            let file = store.join(format!("obelisk-{}.{}", self.name, token.credential));
            msp::write_new(&file, &pin, 0o600)?;
        }
        let file = self.at(&self.etc).join("signer.toml");
        msp::write_new(&file, signer.to_toml().as_bytes(), 0o644)
    }

    fn give(&self, path: &Path) -> Result<(), MspError> {
        let changed = chown(path, Some(self.user), None);
        changed.map_err(|source| MspError::Io {
            doing: "give to the services' user",
            path: path.to_owned(),
            source,
        })
    }

    fn give_all(&self, folder: &Path) -> Result<(), MspError> {
        let entries = fs::read_dir(folder).map_err(|source| MspError::Io {
            doing: "read",
            path: folder.to_owned(),
            source,
        })?;
        for entry in entries.flatten() {
            match entry.path() {
                path if path.is_dir() => self.give_all(&path)?,
                path => self.give(&path)?,
            }
        }
        self.give(folder)
    }
}

fn read(path: &Path) -> Result<Vec<u8>, MspError> {
    fs::read(path).map_err(|source| MspError::Io { doing: "read", path: path.to_owned(), source })
}

fn report(places: &Places<'_>, is_process: bool, context: &Context) {
    let name = places.name;
    let units = match is_process {
        true => format!("obelisk-signer@{name} obelisk@{name}"),
        false => format!("obelisk@{name}"),
    };
    context.output.object(&[
        ("configuration", Cell::Text(places.etc.display().to_string())),
        ("next", Cell::Text(format!("systemctl enable --now {units}"))),
    ]);
    context.output.note("\nRemove the keys and the PIN that were copied: one place holds a key.");
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::cli::network::create;
    use crate::cli::network::create::Plan;
    use crate::cli::output::Output;
    use crate::types::signature::Algorithm;

    fn made(directory: &Path, mode: SignerMode) -> PathBuf {
        let plan = Plan {
            out: directory.join("net"),
            validators: 1,
            algorithm: Algorithm::Ed25519,
            base_port: 7050,
            name: "test".into(),
            consensus: "pbft".into(),
            host: "127.0.0.1".into(),
            signer: mode,
            cards: Vec::new(),
        };
        create::make(&plan).unwrap();
        directory.join("net/org1")
    }

    fn install(from: &Path, root: &Path) -> Result<(), Failure> {
        let user = crate::signer::socket::own_user().to_string();
        let (from, root) = (from.to_owned(), root.to_owned());
        let install = Install { from, name: "one".into(), root, user };
        run(&install, &Context::quiet(Output::new(true)))
    }

    /// Both files name the units' places, the key lies with the signer, a PIN becomes a credential,
    /// and a second installation is refused.
    #[test]
    fn a_validator_is_put_where_the_units_look() {
        let dir = tempfile::tempdir().unwrap();
        let (from, root) = (made(dir.path(), SignerMode::Process), dir.path().join("root"));
        let signer = from.join("signer.toml");
        let pin = from.join("pin");
        msp::write_new(&pin, b"1234\n", 0o400).unwrap();
        let token = "\n[[token]]\nname = \"t\"\nmodule = \"/m.so\"\nlabel = \"t\"\npin = \"pin\"\n";
        fs::write(&signer, fs::read_to_string(&signer).unwrap() + token).unwrap();
        install(&from, &root).unwrap();
        let etc = root.join("etc/obelisk/one");
        let config = Config::load(&etc.join("node.toml")).unwrap();
        assert_eq!(config.node.data, Path::new("/var/lib/obelisk/one"));
        assert!(config.node.genesis.exists() && config.node.identity.join("cert.pem").exists());
        assert_eq!(config.signer.socket, Path::new("/run/obelisk-signer/one/signer.sock"));
        let signer = SignerConfig::load(&etc.join("signer.toml")).unwrap();
        assert_eq!(signer.signer.socket, config.signer.socket);
        let home = Path::new("/var/lib/obelisk-signer/one");
        assert_eq!(signer.validator[0].key.file, home.join("key-0.pem"));
        assert!(signer.validator[0].genesis.exists());
        assert_eq!(signer.token[0].credential, "pin");
        for (file, text) in [
            ("var/lib/obelisk-signer/one/key-0.pem", "PRIVATE KEY"),
            ("etc/credstore/obelisk-one.pin", "1234"),
        ] {
            let path = root.join(file);
            assert!(fs::read_to_string(&path).unwrap().contains(text), "{file}");
            let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
            assert_eq!(mode, 0o600, "{file}");
        }
        assert!(install(&from, &root).unwrap_err().cause.contains("holds a node already"));
    }

    /// A key with a record of what it signed is not copied.
    #[test]
    fn a_key_that_has_signed_is_not_copied() {
        for (mode, record) in [
            (SignerMode::Embedded, "data/guard/slots.log"),
            (SignerMode::Process, "signer/guard/org1_validator.slots"),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let (from, root) = (made(dir.path(), mode), dir.path().join("root"));
            let record = from.join(record);
            fs::create_dir_all(record.parent().unwrap()).unwrap();
            fs::write(&record, "slots").unwrap();
            let failure = install(&from, &root).unwrap_err();
            assert!(failure.cause.contains("has signed already"), "{failure}");
            assert!(failure.fix.contains("signer export") && !root.exists(), "{failure}");
            fs::remove_file(&record).unwrap();
            install(&from, &root).unwrap();
        }
    }
}
