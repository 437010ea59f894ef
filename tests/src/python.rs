//! Python projects of PyPI, with pip as it is configured on this machine, and an image for them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::registry::{Layout, run};
use crate::{Output, Repository};

/// Where a repository has this machine's certificates, if they are not everybody's.
const CERTIFICATES: &str = "certificates.pem";

/// What installs Python projects in a VM: under emulation, pip takes minutes for the same.
const UV: &str = "uv==0.13.9";

/// Debian's packages for Python projects: what their tests need, and what fetches mise.
const PACKAGES: &str = "python3,git,ca-certificates,curl";

impl Layout {
    /// Makes an image of a Debian with Python, git and uv, and without an init system. `scratch` is
    /// a directory of the test's own.
    #[track_caller]
    pub fn python(&self, image: &str, scratch: &Path) {
        let (tar, tools) = (scratch.join("python.tar"), scratch.join("uv"));
        let mut build = Command::new("mmdebstrap");
        build.args(["--quiet", "--variant=essential", "--dpkgopt=force-unsafe-io"]);
        build.arg(format!("--include={PACKAGES}")).arg("bookworm").arg(&tar);
        run(&mut build);
        let mut pip = Command::new("python3");
        run(pip.args(["-m", "pip", "install", "--quiet", "--no-deps", "--target"]).arg(&tools).arg(UV));
        self.add(image);
        self.add_layer(image, &tar);
        self.insert(image, &tools.join("bin/uv"), "/usr/local/bin/uv");
        fs::remove_file(tar).expect("a file");
    }
}

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

    /// Options of `banger` with which pip, uv and the like work in the guest as pip does here. A file
    /// comes into the workspace.
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
        if let Some(address) = index {
            let address = address.trim();
            options.extend(["PIP_INDEX_URL", "UV_DEFAULT_INDEX"].map(|name| format!("--env={name}={address}")));
        }
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
