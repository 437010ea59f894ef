//! What the command line says.

use banger_vmm::{BackendChoice, NetMode, Ready};

use super::{Origin, Settings};
use crate::config::value::Value;

/// What a command line says. None: nothing, so that variables and files count.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// Image of a new VM.
    pub image: Option<String>,
    /// Processors.
    pub cpus: Option<u32>,
    /// Memory in MiB.
    pub memory_mib: Option<u64>,
    /// Size of a new VM's disk in MiB.
    pub disk_mib: Option<u64>,
    /// Network of a new VM.
    pub net: Option<NetMode>,
    /// What runs the VM.
    pub backend: Option<BackendChoice>,
    /// Whether the tools that the repository names for mise are installed.
    pub mise: Option<bool>,
    /// Whether ports that something begins to listen at in the VM are forwarded.
    pub ports_by_themselves: Option<bool>,
    /// When a VM counts as started.
    pub ready: Option<Ready>,
}

impl Settings {
    /// Sets what the command line says, over all else.
    pub(super) fn set_overrides(&mut self, overrides: &Overrides) {
        let name = |name: &str| Value::Text(name.to_owned());
        let given = [
            ("image", overrides.image.clone().map(Value::Text)),
            ("cpus", overrides.cpus.map(|cpus| Value::Number(cpus.into()))),
            ("memory", overrides.memory_mib.map(Value::Size)),
            ("disk", overrides.disk_mib.map(Value::Size)),
            ("backend", overrides.backend.map(|backend| name(backend.name()))),
            ("net", overrides.net.map(|net| name(net.name()))),
            ("mise", overrides.mise.map(Value::Flag)),
            ("ports", overrides.ports_by_themselves.map(|auto| name(if auto { "auto" } else { "none" }))),
            ("ready", overrides.ready.map(|ready| name(if ready == Ready::System { "system" } else { "agent" }))),
        ];
        for (key, value) in given {
            if let Some(value) = value {
                self.set(key, value, Origin::Flag);
            }
        }
    }
}
