//! A user's directories for a test, without a terminal.

use banger_vmm::{Vm, VmRecord};
use serde_json::Value;
use tempfile::TempDir;

use crate::cli::Global;
use crate::host::paths::Paths;
use crate::output::ui::Ui;
use crate::vm::machine::Machines;

/// Empty stores, which go when dropped.
pub(super) struct TestHome {
    pub(super) folder: TempDir,
    pub(super) paths: Paths,
    pub(super) ui: Ui,
}

impl TestHome {
    pub(super) fn new() -> TestHome {
        let folder = tempfile::tempdir().unwrap();
        let [data, cache] = ["data", "cache"].map(|name| folder.path().join(name));
        let ui = Ui::new(&Global { no_input: true, ..Global::default() });
        TestHome { paths: Paths { data, cache, home: None }, ui, folder }
    }

    /// Makes a VM that was never started. `workspace` is what its record says that it is for.
    pub(super) fn create(&self, name: &str, workspace: Value) -> Vm {
        let mut record = VmRecord::new(name, "debian", "generic", 1000);
        record.disk_bytes = 256 << 20;
        record.workspace = workspace;
        Machines::new(&self.paths, &self.ui).store().create(&record).unwrap()
    }
}
