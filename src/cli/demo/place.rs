//! The demo's folder: a marker that says it is ours, and where everything in it lies.
//!
//! ```text
//! <folder>/obelisk-demo.toml            marker: what was made, on which ports; locked while used
//! <folder>/genesis.bin  client.toml     as `obelisk network create` writes them
//! <folder>/<organisation>/              keys, node.toml, client.toml, data
//! <folder>/<organisation>/node.log      what its validator said
//! <folder>/<organisation>/node.pid      its process: id, start time, boot
//! <folder>/<organisation>/stopped-at    height when it was killed
//! ```
//!
//! A folder without the marker is never touched: `--reset` removes only what this file names. The
//! marker is written first and the genesis document last, so an attempt that did not finish is
//! recognised and made again.

use std::fs;
use std::fs::File;
use std::fs::TryLockError;
use std::io;
use std::path::Path;
use std::path::PathBuf;

use serde::Deserialize;
use serde::Serialize;

use crate::cli::failure::Exit;
use crate::cli::failure::Failure;
use crate::cli::profile;
use crate::membership::consortium::GENESIS_FILE;
use crate::membership::identity;

/// What the marker says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Marker {
    /// Version of this layout.
    pub format: u32,
    /// Organisations in the order of the description; the first `validators` run a validator.
    pub organisations: Vec<String>,
    /// How many run a validator.
    pub validators: usize,
    /// First port; see `network`.
    pub base_port: u16,
}

/// The folder, held by this process alone.
#[derive(Debug)]
pub struct Place {
    /// The folder.
    pub folder: PathBuf,
    /// What it holds.
    pub marker: Marker,
    _lock: Option<File>,
}

/// What was found in a folder.
#[derive(Debug)]
pub enum Found {
    /// Nothing, or an empty folder.
    Nothing,
    /// A demo, whole or not finished.
    Demo(Place),
}

/// Where the demo lives when nobody says otherwise.
pub fn default_folder() -> Result<PathBuf, Failure> {
    let named = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    if let Some(state) = named("XDG_STATE_HOME").filter(|path| path.is_absolute()) {
        return Ok(state.join("obelisk/demo"));
    }
    match named("HOME") {
        Some(home) => Ok(home.join(".local/state/obelisk/demo")),
        None => Err(Failure::usage("no home directory is known", "name a folder with --data DIR")),
    }
}

/// Looks into a folder and locks it; refuses one that holds something else.
pub fn find(folder: &Path) -> Result<Found, Failure> {
    look(folder, true)
}

fn look(folder: &Path, locked: bool) -> Result<Found, Failure> {
    let path = folder.join(MARKER);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return unmarked(folder),
        Err(error) => return Err(unreadable("read", &path, &error)),
    };
    let lock = if locked { Some(lock(&path)?) } else { None };
    let marker: Marker = toml::from_str(&text).map_err(|error| {
        let reason = error.to_string();
        let cause = format!("{} is damaged: {}", path.display(), reason.trim_end());
        Failure::usage(cause, "choose another folder with --data DIR, or restore the file")
    })?;
    let named = marker.organisations.iter().all(|name| identity::is_name(name));
    if marker.format != FORMAT || marker.validators > marker.organisations.len() || !named {
        let cause = format!("{} was made by another version of this program", path.display());
        return Err(Failure::usage(cause, "choose another folder with --data DIR"));
    }
    Ok(Found::Demo(Place { folder: folder.to_owned(), marker, _lock: lock }))
}

/// The demo in a folder, locked, or a refusal that says how to make one.
pub fn existing(folder: &Path) -> Result<Place, Failure> {
    whole(folder, find(folder)?)
}

/// As `existing`, for commands that only look.
pub fn readable(folder: &Path) -> Result<Place, Failure> {
    whole(folder, look(folder, false)?)
}

fn whole(folder: &Path, found: Found) -> Result<Place, Failure> {
    match found {
        Found::Demo(place) if place.is_whole() => Ok(place),
        _ => {
            let cause = format!("there is no demo in {}", folder.display());
            Err(Failure::new(Exit::NotFound, cause, "start one with `obelisk demo`"))
        }
    }
}

impl Place {
    /// Marks a new or empty folder as ours.
    pub fn create(folder: &Path, marker: Marker) -> Result<Self, Failure> {
        fs::create_dir_all(folder).map_err(|error| unreadable("make", folder, &error))?;
        let path = folder.join(MARKER);
        fs::write(&path, marker_text(&marker)).map_err(|e| unreadable("write", &path, &e))?;
        Ok(Self { folder: folder.to_owned(), marker, _lock: Some(lock(&path)?) })
    }

    /// True once the genesis document is there.
    pub fn is_whole(&self) -> bool {
        self.folder.join(GENESIS_FILE).exists()
    }

    /// Notes another first port. The marker is rewritten in place, since its file is the lock.
    pub fn move_to(&mut self, base_port: u16) -> Result<(), Failure> {
        self.marker.base_port = base_port;
        self.rewrite()
    }

    /// Writes the marker as it stands.
    pub fn rewrite(&self) -> Result<(), Failure> {
        let path = self.folder.join(MARKER);
        fs::write(&path, marker_text(&self.marker)).map_err(|e| unreadable("write", &path, &e))
    }

    /// Removes what the demo made, and nothing else; the marker stays.
    pub fn wipe(&self) -> Result<(), Failure> {
        for file in [GENESIS_FILE, profile::FILE] {
            removed(&self.folder.join(file), |path| fs::remove_file(path))?;
        }
        for organisation in &self.marker.organisations {
            removed(&self.folder.join(organisation), |path| fs::remove_dir_all(path))?;
        }
        Ok(())
    }

    /// Folder of validator number `i`, from 0.
    pub fn validator(&self, i: usize) -> PathBuf {
        self.folder.join(&self.marker.organisations[i])
    }

    /// A file of validator number `i`, from 0.
    pub fn file(&self, i: usize, name: &str) -> PathBuf {
        self.validator(i).join(name)
    }
}

fn unmarked(folder: &Path) -> Result<Found, Failure> {
    let mut entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
        Err(error) => return Err(unreadable("read", folder, &error)),
    };
    if entries.next().is_none() {
        return Ok(Found::Nothing);
    }
    let cause = format!("{} is not empty and holds no demo", folder.display());
    Err(Failure::usage(cause, "name a new or empty folder with --data DIR"))
}

fn lock(path: &Path) -> Result<File, Failure> {
    let file = File::options().append(true).open(path).map_err(|e| unreadable("open", path, &e))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            let cause = format!("another `obelisk demo` works on {}", path.display());
            Err(Failure::new(Exit::Refused, cause, "wait until it is done, then try again"))
        }
        Err(TryLockError::Error(error)) => Err(unreadable("lock", path, &error)),
    }
}

fn marker_text(marker: &Marker) -> String {
    let text = toml::to_string(marker).expect("a marker is a table of plain values");
    format!("# Made by `obelisk demo`; --reset removes what is named here.\n{text}")
}

fn removed(path: &Path, remove: impl Fn(&Path) -> io::Result<()>) -> Result<(), Failure> {
    match remove(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(unreadable("remove", path, &error))
        }
        _ => Ok(()),
    }
}

/// A file system's refusal.
pub fn unreadable(doing: &str, path: &Path, error: &io::Error) -> Failure {
    let cause = format!("cannot {doing} {}: {error}", path.display());
    Failure::new(Exit::Internal, cause, "check disk space and permissions, or use --data DIR")
}

/// The marker's name.
pub const MARKER: &str = "obelisk-demo.toml";
/// Version of the layout.
pub const FORMAT: u32 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    fn marker() -> Marker {
        let organisations = vec!["a".to_owned(), "b".to_owned()];
        Marker { format: FORMAT, organisations, validators: 2, base_port: 7050 }
    }

    /// A folder with something else in it is refused, whatever is asked.
    #[test]
    fn a_folder_of_somebody_else_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("thesis.txt"), "words").unwrap();
        let failure = find(dir.path()).unwrap_err();
        assert_eq!(failure.exit, Exit::Usage);
        assert!(failure.cause.contains("holds no demo"), "{failure}");
    }

    /// Wiping removes what the demo made and leaves what others put beside it.
    #[test]
    fn wiping_leaves_foreign_files_alone() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place::create(dir.path(), marker()).unwrap();
        fs::create_dir(dir.path().join("a")).unwrap();
        fs::write(dir.path().join("a/key.pem"), "").unwrap();
        fs::write(dir.path().join("notes.txt"), "mine").unwrap();
        place.wipe().unwrap();
        assert!(!dir.path().join("a").exists() && dir.path().join("notes.txt").exists());
    }

    /// Two commands never work on one demo at the same time, and a damaged marker is named.
    #[test]
    fn a_folder_is_locked_and_damage_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let mut place = Place::create(dir.path(), marker()).unwrap();
        assert!(find(dir.path()).unwrap_err().cause.contains("another `obelisk demo`"));
        place.move_to(7200).unwrap();
        drop(place);
        let Found::Demo(place) = find(dir.path()).unwrap() else { panic!("it was made") };
        assert_eq!(place.marker.base_port, 7200);
        drop(place);
        fs::write(dir.path().join(MARKER), "validators = \"four\"").unwrap();
        assert!(find(dir.path()).unwrap_err().cause.contains("is damaged"));
    }
}
