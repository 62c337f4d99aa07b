//! Profiles of hosts (`firmware-config/`): what a board should be set to, with the reason.
//!
//! ```text
//! firmware-config/common.toml            included by every profile
//! firmware-config/<disks>.toml           included by the profiles of hosts with such disks
//! firmware-config/<board>/<part>.toml    included by the board's profiles
//! firmware-config/<board>/<place>.toml   a profile; its key `name` is what the operator types
//! ```
//!
//! The files are part of the binary and are installed as text for reading. Unknown keys and kinds
//! are errors, and so is a profile that neither sets a topic (`topic`) nor says why it sets none.
//! A comparison changes nothing; it says of every setting what was found, what is wanted, and the
//! commands that lead there. It refuses a machine that is not of the profile's family and
//! surroundings.

pub mod compare;
pub mod topic;

use serde::Deserialize;

use crate::host::devices::Surroundings;
use crate::host::profile::topic::Nothing;

/// A profile, its own settings behind those it includes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    /// What the operator types.
    pub name: String,
    /// What it is for.
    pub title: String,
    /// Processor family, as the kernel names it.
    pub architecture: String,
    /// What the machine must run in: one of these.
    pub surroundings: Vec<Surroundings>,
    /// Where it was tried.
    pub tried: String,
    /// The settings, in the order of the files.
    pub settings: Vec<Setting>,
    /// The topics without a setting, each with its reason.
    pub nothing: Vec<Nothing>,
}

/// One setting.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Setting {
    /// What kind of thing is set.
    pub kind: Kind,
    /// Which one: a key, a path below the root, a prefix of disks, a module, a file.
    pub name: String,
    /// How the value found must relate to `value`.
    pub rule: Rule,
    /// The value wanted.
    pub value: String,
    /// Its unit.
    pub unit: String,
    /// Why this value; for a number its derivation.
    pub why: String,
    /// Where that is documented.
    pub source: String,
    /// Compared only where this path below the root exists (`*` at its end: any name that begins
    /// so). Without it a machine that has no such thing does not fit.
    #[serde(default, rename = "where")]
    pub only_where: Option<String>,
}

/// Kinds of settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A word of the kernel's command line.
    KernelLine,
    /// A key below `/proc/sys`.
    Sysctl,
    /// A file below `/sys`; a choice stands in brackets.
    Sysfs,
    /// Huge pages set aside.
    HugePages,
    /// The I/O scheduler of disks whose name begins so.
    Scheduler,
    /// A kernel module.
    Module,
    /// A file of `/etc/udev/rules.d` with this rule.
    Udev,
    /// Lines of a configuration file; `{apqns}` stands for the queues of adapters in EP11 mode,
    /// `{wkvp}` for the pattern of their master key.
    File,
    /// Online crypto adapters in this mode.
    Adapter,
}

/// Relations of a value found to the one wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rule {
    /// The same.
    Equal,
    /// Not below.
    AtLeast,
    /// Not above.
    AtMost,
    /// One of several words; the first is what is set.
    OneOf,
}

/// Why a profile cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// No such profile.
    #[error("there is no host profile {name:?}; choose one of {known}")]
    Unknown { name: String, known: String },
    /// The file is wrong.
    #[error("host profile {file}: {reason}; correct the file")]
    Syntax { file: String, reason: String },
    /// The profile is for another machine.
    #[error(
        "the profile {name} is for {wanted}, this machine is {found}; choose a profile of {found}"
    )]
    Foreign { name: String, wanted: String, found: String },
    /// The profile is for other surroundings.
    #[error("the profile {name} is for {wanted}, this machine is {found}; {fix}")]
    Elsewhere { name: String, wanted: String, found: String, fix: String },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    name: Option<String>,
    title: String,
    architecture: Option<String>,
    #[serde(default)]
    surroundings: Vec<Surroundings>,
    #[serde(default)]
    include: Vec<String>,
    tried: String,
    #[serde(default)]
    setting: Vec<Setting>,
    #[serde(default)]
    nothing: Vec<Nothing>,
}

/// Every file of `firmware-config/`, by its path without `.toml`.
const FILES: &[(&str, &str)] = &[
    ("common", include_str!("../../firmware-config/common.toml")),
    ("scsi", include_str!("../../firmware-config/scsi.toml")),
    ("virtio", include_str!("../../firmware-config/virtio.toml")),
    ("linuxone/board", include_str!("../../firmware-config/linuxone/board.toml")),
    ("linuxone/lpar", include_str!("../../firmware-config/linuxone/lpar.toml")),
    ("linuxone/guest", include_str!("../../firmware-config/linuxone/guest.toml")),
    ("linuxone/adapters", include_str!("../../firmware-config/linuxone/adapters.toml")),
    ("linuxone/ep11", include_str!("../../firmware-config/linuxone/ep11.toml")),
    ("linuxone/lpar-ep11", include_str!("../../firmware-config/linuxone/lpar-ep11.toml")),
    (
        "linuxone/lpar-accelerator",
        include_str!("../../firmware-config/linuxone/lpar-accelerator.toml"),
    ),
    (
        "linuxone/secure-execution",
        include_str!("../../firmware-config/linuxone/secure-execution.toml"),
    ),
    ("linuxone/kvm", include_str!("../../firmware-config/linuxone/kvm.toml")),
    ("power/board", include_str!("../../firmware-config/power/board.toml")),
    ("power/powervm", include_str!("../../firmware-config/power/powervm.toml")),
    ("power/kvm", include_str!("../../firmware-config/power/kvm.toml")),
    ("x86/board", include_str!("../../firmware-config/x86/board.toml")),
    ("x86/bare", include_str!("../../firmware-config/x86/bare.toml")),
    ("x86/guest", include_str!("../../firmware-config/x86/guest.toml")),
    ("x86/vm", include_str!("../../firmware-config/x86/vm.toml")),
    ("x86/cloud", include_str!("../../firmware-config/x86/cloud.toml")),
];

/// Every profile of this build.
pub fn all() -> Result<Vec<Profile>, ProfileError> {
    let mut profiles = Vec::new();
    for (file, text) in FILES {
        let document = parse(file, text)?;
        if document.name.is_some() {
            profiles.push(assemble(file, document)?);
        }
    }
    Ok(profiles)
}

/// The profile of that name.
pub fn named(name: &str) -> Result<Profile, ProfileError> {
    let profiles = all()?;
    let known: Vec<&str> = profiles.iter().map(|profile| profile.name.as_str()).collect();
    let known = known.join(", ");
    profiles
        .into_iter()
        .find(|profile| profile.name == name)
        .ok_or_else(|| ProfileError::Unknown { name: name.to_owned(), known })
}

fn parse(file: &str, text: &str) -> Result<Document, ProfileError> {
    let refuse = |reason: String| ProfileError::Syntax { file: file.to_owned(), reason };
    let document: Document =
        toml::from_str(text).map_err(|error| refuse(error.to_string().trim().to_owned()))?;
    for setting in &document.setting {
        let told = [&setting.value, &setting.unit, &setting.why, &setting.source];
        if told.iter().any(|text| text.trim().is_empty()) {
            let name = &setting.name;
            return Err(refuse(format!(
                "setting {name}: value, unit, why and source must be told"
            )));
        }
        let number = setting.value.parse::<u64>().is_ok() || setting.kind == Kind::HugePages;
        if matches!(setting.rule, Rule::AtLeast | Rule::AtMost) && !number {
            let name = &setting.name;
            return Err(refuse(format!("setting {name}: at-least and at-most need a number")));
        }
    }
    for nothing in &document.nothing {
        if nothing.why.trim().is_empty() || nothing.source.trim().is_empty() {
            let topic = nothing.of.name();
            return Err(refuse(format!("nothing of {topic}: why and source must be told")));
        }
    }
    Ok(document)
}

fn assemble(file: &str, document: Document) -> Result<Profile, ProfileError> {
    let refuse = |reason: String| ProfileError::Syntax { file: file.to_owned(), reason };
    let Some(name) = document.name else { return Err(refuse("name is missing".to_owned())) };
    let architecture = document.architecture;
    let architecture = architecture.ok_or_else(|| refuse("architecture is missing".to_owned()))?;
    if document.surroundings.is_empty() {
        return Err(refuse("surroundings are missing".to_owned()));
    }
    let (mut settings, mut nothing) = (Vec::new(), Vec::new());
    for include in &document.include {
        let (included, text) = FILES
            .iter()
            .find(|(file, _)| file == include)
            .ok_or_else(|| refuse(format!("include: there is no {include}.toml")))?;
        let included_document = parse(included, text)?;
        if included_document.name.is_some() {
            return Err(refuse(format!("include: {include} is a profile of its own")));
        }
        settings.extend(included_document.setting);
        nothing.extend(included_document.nothing);
    }
    settings.extend(document.setting);
    nothing.extend(document.nothing);
    topic::covered(&settings, &nothing).map_err(refuse)?;
    let (title, tried, surroundings) = (document.title, document.tried, document.surroundings);
    Ok(Profile { name, title, architecture, surroundings, tried, settings, nothing })
}

#[cfg(test)]
mod tests;
