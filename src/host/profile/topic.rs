//! What every profile must speak of: a setting of each topic, or one entry `nothing` that says why
//! there is none. Both, or neither, is an error of the file.

use serde::Deserialize;

use crate::host::profile::Kind;
use crate::host::profile::Setting;

/// A topic of a profile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Topic {
    /// The kernel's command line.
    KernelLine,
    /// Keys below `/proc/sys`.
    Sysctl,
    /// Huge pages.
    HugePages,
    /// Rules of udev.
    Udev,
    /// Which crypto adapters and domains belong to the system's own drivers.
    ApMasks,
    /// Configuration of openCryptoki.
    Opencryptoki,
    /// Modules of the kernel to load.
    Modules,
    /// Clock rate and dispatching of processors.
    Cpu,
    /// Threads of a core.
    Smt,
    /// I/O schedulers.
    IoScheduler,
}

/// A topic that a profile sets nothing of.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nothing {
    /// The topic.
    pub of: Topic,
    /// Why it does not apply.
    pub why: String,
    /// Where that is documented.
    pub source: String,
}

impl Topic {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::KernelLine,
        Self::Sysctl,
        Self::HugePages,
        Self::Udev,
        Self::ApMasks,
        Self::Opencryptoki,
        Self::Modules,
        Self::Cpu,
        Self::Smt,
        Self::IoScheduler,
    ];

    /// As profiles write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::KernelLine => "kernel-line",
            Self::Sysctl => "sysctl",
            Self::HugePages => "huge-pages",
            Self::Udev => "udev",
            Self::ApMasks => "ap-masks",
            Self::Opencryptoki => "opencryptoki",
            Self::Modules => "modules",
            Self::Cpu => "cpu",
            Self::Smt => "smt",
            Self::IoScheduler => "io-scheduler",
        }
    }

    /// The topic of a setting; some belong to none.
    pub fn of(setting: &Setting) -> Option<Self> {
        let below = |folder| setting.name.starts_with(folder);
        Some(match setting.kind {
            Kind::KernelLine => Self::KernelLine,
            Kind::Sysctl => Self::Sysctl,
            Kind::HugePages => Self::HugePages,
            Kind::Udev => Self::Udev,
            Kind::Module => Self::Modules,
            Kind::Scheduler => Self::IoScheduler,
            Kind::Sysfs if below("sys/bus/ap/") => Self::ApMasks,
            Kind::Sysfs if below("sys/devices/system/cpu/smt/") => Self::Smt,
            Kind::Sysfs if below("sys/devices/system/cpu/") => Self::Cpu,
            Kind::File if below("etc/opencryptoki/") => Self::Opencryptoki,
            Kind::Sysfs | Kind::File | Kind::Adapter => return None,
        })
    }
}

/// Whether every topic is spoken of once.
pub fn covered(settings: &[Setting], nothing: &[Nothing]) -> Result<(), String> {
    for topic in Topic::ALL {
        let name = topic.name();
        let set = settings.iter().any(|setting| Topic::of(setting) == Some(topic));
        let reasons = nothing.iter().filter(|nothing| nothing.of == topic).count();
        match (set, reasons) {
            (true, 0) | (false, 1) => {}
            (false, 0) => {
                return Err(format!("{name}: neither a setting nor an entry nothing with its why"));
            }
            (true, _) => return Err(format!("{name}: settings, and an entry nothing as well")),
            (false, _) => return Err(format!("{name}: more than one entry nothing")),
        }
    }
    Ok(())
}
