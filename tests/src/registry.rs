//! Real images, made by umoci, and a real registry on loopback, filled by skopeo.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::{Output, eventually};

/// User and password of the registry's only user; the file of htpasswd(1) has the hash.
pub const CREDENTIALS: &str = "user:secret";
const HTPASSWD: &str = "user:$2y$05$LaB3otJSIpiMTSjyNHsqqeM1pNtW42G6K5RCAen1CfldLcTBNtCsC\n";

/// A running registry, which ends when this value is dropped.
pub struct Registry {
    /// Host and port.
    pub address: String,
    process: Child,
    folder: TempDir,
}

impl Registry {
    /// Starts a registry that needs [`CREDENTIALS`], with plain HTTP.
    pub fn new() -> Registry {
        Registry::start(false)
    }

    /// Starts a registry that needs [`CREDENTIALS`], with HTTPS. Its certificate is of the
    /// authority [`Registry::authority`], which no system trusts.
    pub fn with_certificate() -> Registry {
        Registry::start(true)
    }

    /// The file with the certificate of the registry's authority.
    pub fn authority(&self) -> PathBuf {
        self.folder.path().join("authority.pem")
    }

    fn start(encrypted: bool) -> Registry {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port");
        let address = free.to_string();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("htpasswd"), HTPASSWD).expect("a file");
        let tls = if encrypted {
            make_certificate(folder.path());
            format!(", tls: {{certificate: {}, key: {}}}", at("its.pem").display(), at("its.key").display())
        } else {
            String::new()
        };
        let configuration = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\n\
             http: {{addr: \"{address}\"{tls}}}\nauth: {{htpasswd: {{realm: r, path: {}}}}}\n",
            at("store").display(),
            at("htpasswd").display()
        );
        fs::write(at("config.yml"), configuration).expect("a file");
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(at("config.yml")).stdout(Stdio::null()).stderr(Stdio::null());
        let process = command.spawn().expect("docker-registry is installed");
        eventually("the registry answers", || TcpStream::connect(&address).is_ok());
        Registry { address, process, folder }
    }

    /// Copies an image of a layout into the registry, and returns its reference.
    #[track_caller]
    pub fn push(&self, layout: &Layout, image: &str, repository: &str) -> String {
        let reference = format!("{}/{repository}", self.address);
        let mut skopeo = Command::new("skopeo");
        skopeo.args(["copy", "--quiet", "--dest-tls-verify=false", "--dest-creds", CREDENTIALS]);
        run(skopeo.arg(layout.source(image)).arg(format!("docker://{reference}")));
        reference
    }
}

impl Default for Registry {
    fn default() -> Self {
        Registry::new()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // Both fail only when it is gone already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Makes an authority in `folder`, and a certificate of it for loopback.
fn make_certificate(folder: &Path) {
    let openssl = |arguments: &str| run(Command::new("openssl").args(arguments.split(' ')).current_dir(folder));
    let new = "req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    openssl(&format!("{new} -x509 -days 2 -subj /CN=authority -keyout authority.key -out authority.pem"));
    openssl(&format!("{new} -subj /CN=its -addext subjectAltName=IP:127.0.0.1 -keyout its.key -out its.csr"));
    openssl(
        "x509 -req -days 2 -in its.csr -CA authority.pem -CAkey authority.key -CAcreateserial -copy_extensions copy -out its.pem",
    );
}

/// An OCI layout in a directory.
pub struct Layout(PathBuf);

impl Layout {
    /// Makes an empty layout at `folder`.
    #[track_caller]
    pub fn new(folder: PathBuf) -> Layout {
        run(Command::new("umoci").args(["init", "--layout"]).arg(&folder));
        Layout(folder)
    }

    /// The source of an image of the layout, for banger and skopeo(1).
    pub fn source(&self, image: &str) -> String {
        format!("oci:{}:{image}", self.0.display())
    }

    /// The file of the largest blob.
    pub fn largest_blob(&self) -> PathBuf {
        let blobs = fs::read_dir(self.0.join("blobs/sha256")).expect("a layout").flatten();
        blobs
            .map(|blob| blob.path())
            .max_by_key(|blob| fs::metadata(blob).map_or(0, |blob| blob.len()))
            .expect("a blob")
    }

    fn image(&self, image: &str) -> String {
        format!("{}:{image}", self.0.display())
    }

    /// Makes an image without layers.
    #[track_caller]
    pub fn add(&self, image: &str) {
        run(Command::new("umoci").args(["new", "--image", &self.image(image)]));
    }

    /// Adds a layer with a file or a directory of this host.
    #[track_caller]
    pub fn insert(&self, image: &str, from: &Path, to: &str) {
        run(Command::new("umoci").args(["insert", "--rootless", "--image", &self.image(image)]).arg(from).arg(to));
    }

    /// Adds a layer with a whiteout for `path`.
    #[track_caller]
    pub fn whiteout(&self, image: &str, path: &str) {
        run(Command::new("umoci").args(["insert", "--rootless", "--image", &self.image(image), "--whiteout", path]));
    }

    /// Adds a layer that is a tar archive.
    #[track_caller]
    pub fn add_layer(&self, image: &str, tar: &Path) {
        run(Command::new("umoci").args(["raw", "add-layer", "--image", &self.image(image)]).arg(tar));
    }

    /// Makes an image of a whole Debian, which the tests share: systemd, a C compiler, 10,000
    /// files, 400 MB.
    #[track_caller]
    pub fn debian(&self, image: &str, scratch: &Path) {
        let (tree, tar) = (scratch.join("debian"), scratch.join("debian.tar"));
        fs::create_dir(&tree).expect("a folder");
        let rootfs = crate::required("BANGER_TEST_DATA").join("images/debian-bookworm-minimal/rootfs.ext4");
        let dump = format!("rdump / {}", tree.display());
        run(Command::new("/usr/sbin/debugfs").args(["-R", &dump]).arg(rootfs));
        let mut pack = Command::new("tar");
        pack.args(["--numeric-owner", "--owner=0", "--group=0", "--sort=name", "--exclude=./lost+found", "-cf"]);
        run(pack.arg(&tar).arg("-C").arg(&tree).arg("."));
        self.add(image);
        self.add_layer(image, &tar);
        for left in [&tree, &tar] {
            run(Command::new("rm").arg("-rf").arg(left));
        }
    }

    /// Sets fields of an image's configuration, with options of umoci-config(1).
    #[track_caller]
    pub fn configure(&self, image: &str, options: &[&str]) {
        run(Command::new("umoci").args(["config", "--image", &self.image(image)]).args(options));
    }

    /// Makes an image of busybox: a shell and its tools, and no init.
    #[track_caller]
    pub fn busybox(&self, image: &str, scratch: &Path) {
        let bin = scratch.join("busybox-bin");
        if !bin.exists() {
            fs::create_dir(&bin).expect("a folder");
            fs::copy("/bin/busybox", bin.join("busybox")).expect("busybox-static is installed");
            for applet in ["cat", "echo", "env", "ls", "pwd", "sh", "stat", "test", "uname"] {
                std::os::unix::fs::symlink("busybox", bin.join(applet)).expect("a link");
            }
        }
        self.add(image);
        self.insert(image, &bin, "/bin");
    }
}

/// Runs a program of this machine; it must succeed.
#[track_caller]
pub fn run(command: &mut Command) {
    Output::from(command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"))).ok();
}
