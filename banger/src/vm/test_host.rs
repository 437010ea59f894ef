//! A second place where VMs live, for tests: records in memory, an agent that is a thread, and
//! disks that are written here and uploaded to a directory.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Seek, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread;

use banger_agent::frame::{Frame, FrameCodec};
use banger_agent::protocol::{AgentReply, Stat};
use banger_vmm::{AgentAccess, Error, Programs, Result, StorePaths, VmHost, VmRecord, VmStore};
use bytes::BytesMut;
use tempfile::TempDir;
use tokio_util::codec::Encoder;

/// Length of the disks, in bytes.
const DISK: u64 = 64 << 20;

/// A machine of which this one has no directories.
#[derive(Debug)]
pub(crate) struct TestHost {
    folder: TempDir,
    records: BTreeMap<String, VmRecord>,
    /// The streams that were opened.
    pub(crate) opened: Mutex<Vec<(String, AgentAccess)>>,
}

impl TestHost {
    pub(crate) fn new(records: impl IntoIterator<Item = VmRecord>) -> Arc<TestHost> {
        let records = records.into_iter().map(|record| (record.name.clone(), record)).collect();
        Arc::new(TestHost { folder: tempfile::tempdir().unwrap(), records, opened: Mutex::default() })
    }

    /// The VMs of `host`, of which this machine keeps nothing.
    pub(crate) fn store(self: &Arc<TestHost>) -> VmStore {
        let [vms, host, cache] = ["vms", "host", "cache"].map(|name| self.folder.path().join(name));
        VmStore::on(self.clone(), StorePaths { vms, host, cache }, Programs::new("/usr/bin:/bin"))
    }

    /// The disk that was uploaded for a VM.
    pub(crate) fn uploaded(&self, name: &str) -> PathBuf {
        self.folder.path().join(format!("{name}.ext4"))
    }

    fn known(&self, name: &str) -> Result<&VmRecord> {
        self.records.get(name).ok_or_else(|| Error::NotFound(name.to_owned()))
    }
}

impl VmHost for TestHost {
    fn names(&self) -> Result<Vec<String>> {
        Ok(self.records.keys().cloned().collect())
    }

    fn has(&self, name: &str) -> Result<bool> {
        Ok(self.records.contains_key(name))
    }

    fn record(&self, name: &str) -> Result<VmRecord> {
        self.known(name).cloned()
    }

    fn connect_agent(&self, name: &str, access: AgentAccess) -> Result<UnixStream> {
        self.known(name)?;
        self.opened.lock().unwrap().push((name.to_owned(), access));
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        thread::spawn(move || {
            let mut request = [0; 4096];
            let _ = theirs.read(&mut request).unwrap();
            let stat = Stat { commands: 3, disk_total: 0, disk_free: 0, memory_total: 0, memory_available: 0 };
            let mut answer = BytesMut::new();
            FrameCodec.encode(Frame::control(&AgentReply::Ok(stat)), &mut answer).unwrap();
            theirs.write_all(&answer).unwrap();
        });
        Ok(ours)
    }

    fn open_workspace(&self, name: &str) -> Result<File> {
        self.known(name)?;
        let disk = tempfile::tempfile_in(self.folder.path()).unwrap();
        disk.set_len(DISK).unwrap();
        Ok(disk)
    }

    fn upload_workspace(&self, name: &str, mut disk: File) -> Result<()> {
        disk.rewind().unwrap();
        let mut sent = Vec::new();
        disk.read_to_end(&mut sent).unwrap();
        fs::write(self.uploaded(name), sent).unwrap();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use banger_agent::protocol::AgentRequest;

    use super::*;
    use crate::cli::Global;
    use crate::error::ErrorKind;
    use crate::host::paths::Paths;
    use crate::output::ui::Ui;
    use crate::vm::agent::{Call, LOOK_LIMIT};
    use crate::vm::machine::{Machines, named};
    use crate::vm::ownership::{OwnerMatch, VmOwner, find};

    #[test]
    fn vms_of_another_host_are_listed_and_found() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap().join("repo");
        for folder in ["objects", "refs"] {
            fs::create_dir_all(root.join(".git").join(folder)).unwrap();
        }
        fs::write(root.join(".git/HEAD"), "ref: refs/heads/main\n").unwrap();
        let workspace = crate::git::Workspace::discover(&root, crate::git::Host::default()).unwrap();
        let mut own = VmRecord::new("own", "image", "kernel", 0);
        own.workspace = VmOwner::new(&workspace, false).to_value();
        let host = TestHost::new([VmRecord::new("box", "image", "kernel", 0), own]);

        let paths = Paths { data: root.join("data"), cache: root.join("cache"), home: None };
        let ui = Ui::new(&Global::default());
        let machines = Machines::of(host.store(), &paths, &ui);
        assert_eq!(machines.names().unwrap(), ["box", "own"]);
        assert_eq!(named("box", &machines).unwrap().record().unwrap().image, "image");
        assert_eq!(named("none", &machines).unwrap_err().kind, ErrorKind::VmNotFound);
        let (vm, owner) = find(machines.store(), "repo", &workspace).unwrap().unwrap();
        assert_eq!((vm.name(), owner), ("own", OwnerMatch::Here));
        assert_eq!(machines.find(&workspace).unwrap().unwrap().name(), "own");
    }

    #[test]
    fn an_agent_of_another_host_is_asked_through_it() {
        let host = TestHost::new([VmRecord::new("box", "image", "kernel", 0)]);
        let vm = host.store().get("box").unwrap().unwrap();
        assert_eq!(Call::ask::<Stat>(&vm, &AgentRequest::Stat).unwrap().commands, 3);
        assert_eq!(Call::look::<Stat>(&vm, &AgentRequest::Stat).unwrap().commands, 3);
        let opened = [AgentAccess::Use, AgentAccess::Look(LOOK_LIMIT)].map(|access| ("box".to_owned(), access));
        assert_eq!(*host.opened.lock().unwrap(), opened);
    }
}
