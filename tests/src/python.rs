//! Python projects of PyPI, and pip as it is configured on this machine.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::{Output, Repository};

/// Where a repository has this machine's certificates, if they are not everybody's.
const CERTIFICATES: &str = "certificates.pem";

impl Repository<'_> {
    /// Fills this with what the authors of `release` (`name==version`) released, and commits it.
    #[track_caller]
    pub fn fill_from_pypi(&self, release: &str) {
        let folder = tempfile::tempdir_in(self.home.path()).expect("a folder");
        let mut pip = Command::new("python3");
        pip.args(["-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:", release]);
        Output::from(pip.current_dir(folder.path()).output().expect("pip runs")).ok();
        let archive = fs::read_dir(folder.path()).expect("a folder").flatten().next().expect("an archive").path();
        let mut tar = self.home.command("tar");
        tar.args(["--extract", "--strip-components=1", "--file"]).arg(archive).arg("--directory").arg(&self.root);
        Output::from(tar.output().expect("tar runs")).ok();
        self.commit("as released");
    }

    /// Options of `banger` with which pip and what is like it work in the guest as they do here. A
    /// file comes into the workspace.
    pub fn client_options(&self) -> Vec<String> {
        let mut options = Vec::new();
        if let Some(certificates) = std::env::var_os("SSL_CERT_FILE") {
            self.write(CERTIFICATES, fs::read(certificates).expect("certificates"));
            let names = ["SSL_CERT_FILE", "CURL_CA_BUNDLE", "PIP_CERT", "REQUESTS_CA_BUNDLE"];
            options.extend(names.map(|name| format!("--env={name}=/root/repo/{CERTIFICATES}")));
        }
        let index = Command::new("python3").args(["-m", "pip", "config", "get", "global.index-url"]).output();
        let index = index.ok().filter(|output| output.status.success()).map(|output| output.stdout);
        let index = std::env::var("PIP_INDEX_URL").ok().or_else(|| String::from_utf8(index?).ok());
        options.extend(index.map(|address| format!("--env=PIP_INDEX_URL={}", address.trim())));
        options
    }

    /// A virtual environment of this machine's own with the projects of these folders in it; its
    /// interpreter.
    #[track_caller]
    pub fn venv_here(&self, folders: &[&str]) -> PathBuf {
        let venv = self.home.path().join("venv");
        let made = Command::new("python3").args(["-m", "venv"]).arg(&venv).output();
        Output::from(made.expect("python runs")).ok();
        let python = venv.join("bin/python");
        let mut pip = Command::new(&python);
        pip.args(["-m", "pip", "install", "--quiet"]).args(folders.iter().map(|folder| format!("./{folder}")));
        pip.current_dir(&self.root);
        Output::from(pip.output().expect("pip runs")).ok();
        python
    }
}
