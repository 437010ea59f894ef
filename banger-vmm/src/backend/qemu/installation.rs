//! What a QEMU reads of its host: its libraries, modules and firmware, wherever it is installed.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tokio::time::timeout;

use crate::error::{Failure, IoContext};

/// How long QEMU may take to say its version.
const VERSION_LIMIT: Duration = Duration::from_secs(10);
/// Where distributions install programs and libraries, for all users alike. Those of Nix and Guix
/// link to their stores by whole paths.
const SYSTEM: [&str; 8] = ["/usr", "/lib", "/lib32", "/lib64", "/bin", "/sbin", "/nix/store", "/gnu/store"];
/// What the dynamic loader reads, ld.so(8), and that of musl.
const LOADER: [&str; 3] = ["/etc/ld.so.cache", "/etc/ld.so.preload", "/etc/ld-musl-x86_64.path"];
/// How the host has set up libraries that QEMU is linked to: GnuTLS, OpenSSL, and the time zone of
/// the C library.
const SETTINGS: [&str; 5] =
    ["/etc/crypto-policies", "/etc/gnutls", "/etc/pki/tls/openssl.cnf", "/etc/ssl/openssl.cnf", "/etc/localtime"];
/// What QEMU and its libraries ask the kernel: processors and memory nodes.
const KERNEL: [&str; 1] = ["/sys/devices/system"];
/// What QEMU has beneath the prefix that it is installed to: libraries, modules and firmware, all
/// of it under these names. `Cellar` is where Homebrew keeps what its `lib` has links to.
const BENEATH_PREFIX: [&str; 9] =
    ["lib", "lib32", "lib64", "libexec", "share/qemu", "share/qemu-firmware", "share/seabios", "share/ipxe", "Cellar"];
/// What it has beside itself, where it runs from the directory it was built in.
const BESIDE: [&str; 3] = ["qemu-bundle", "pc-bios", "../pc-bios"];

/// What the QEMU at `program` reads besides its VM's own files; some of it may not exist.
///
/// Never a whole prefix: that of `~/.local/bin` has banger's own data beneath it, and that of
/// `~/bin` is the user's home.
pub(super) fn readable(program: &Path) -> Vec<PathBuf> {
    let of_the_system = SYSTEM.into_iter().chain(LOADER).chain(SETTINGS).chain(KERNEL);
    let mut readable: Vec<PathBuf> = of_the_system.map(Into::into).collect();
    // A link leads to where it is installed, as in Homebrew and Nix, and is itself beside links to
    // its libraries.
    let resolved = program.canonicalize();
    for program in [Some(program), resolved.as_deref().ok()].into_iter().flatten() {
        readable.push(program.to_owned());
        let Some(directory) = program.parent() else { continue };
        let beneath: &[&str] = if directory.ends_with("bin") { &BENEATH_PREFIX } else { &BESIDE };
        let prefix = if directory.ends_with("bin") { directory.parent().unwrap_or(directory) } else { directory };
        readable.extend(beneath.iter().map(|name| prefix.join(name)));
    }
    readable
}

/// What QEMU's user networking reads: the name servers of this host, again whenever they change.
/// Who changes them makes the file anew, so what may be read is the directory: that of the file
/// which `/etc/resolv.conf` leads to.
///
/// Not all of `/etc` for root, who may read the host's secrets there, and no other directory than
/// those of the system: there, a file that is made anew is seen by the VM's next start only.
pub(super) fn name_servers(is_root: bool) -> Option<PathBuf> {
    let file = Path::new("/etc/resolv.conf").canonicalize().ok()?;
    Some(directory_of(&file, is_root).map(Into::into).unwrap_or(file))
}

fn directory_of(file: &Path, is_root: bool) -> Option<&Path> {
    let directory = file.parent()?;
    let is_of_etc = directory == Path::new("/etc") && !is_root;
    // One of a service's own; what a user has in `/run/user` is no business of QEMU's.
    let below_run = directory.strip_prefix("/run").ok().filter(|below| !below.starts_with("user"));
    let is_of_run = below_run.is_some_and(|below| below != Path::new(""));
    (is_of_etc || is_of_run).then_some(directory)
}

/// The version of the QEMU at `program`, such as `7.2.22`: what QMP's greeting says of one that runs.
///
/// # Errors
/// It does not run, or does not say.
pub(super) async fn version(program: &Path) -> Result<String, Failure> {
    let mut command = Command::new(program);
    command.env_clear().arg("--version").stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    let unknown = || Failure::new(format!("{} does not say its version", program.display()));
    let output = timeout(VERSION_LIMIT, command.output()).await.map_err(|_| unknown())?.at("run", program)?;
    parse_version(&String::from_utf8_lossy(&output.stdout)).ok_or_else(unknown)
}

fn parse_version(text: &str) -> Option<String> {
    let version = text.strip_prefix("QEMU emulator version ")?.split_whitespace().next()?;
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    version.split('.').all(is_number).then(|| version.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(program: &str) -> Vec<String> {
        readable(Path::new(program)).iter().map(|path| path.to_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn version_is_parsed() {
        let debian = "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7)\nCopyright (c) 2003-2022 Fabrice Bellard\n";
        assert_eq!(parse_version(debian).as_deref(), Some("7.2.22"));
        assert_eq!(parse_version("QEMU emulator version 10.1.0\n").as_deref(), Some("10.1.0"));
        for other in ["", "qemu 7", "QEMU emulator version x", "QEMU emulator version 1..2"] {
            assert_eq!(parse_version(other), None, "{other}");
        }
    }

    #[test]
    fn readable_paths_cover_qemu_files_but_not_its_prefix() {
        for (program, of_it, never) in [
            ("/opt/qemu/bin/qemu-system-x86_64", "/opt/qemu/lib", "/opt/qemu"),
            ("/home/me/.local/bin/qemu-system-x86_64", "/home/me/.local/share/qemu", "/home/me/.local/share"),
            ("/home/me/bin/qemu-system-x86_64", "/home/me/lib", "/home/me"),
            (
                "/home/linuxbrew/.linuxbrew/bin/qemu-system-x86_64",
                "/home/linuxbrew/.linuxbrew/Cellar",
                "/home/linuxbrew",
            ),
            ("/home/me/qemu/build/qemu-system-x86_64", "/home/me/qemu/build/qemu-bundle", "/home/me/qemu/build"),
        ] {
            let all = of(program);
            for needed in [program, of_it, "/usr", "/nix/store"] {
                assert!(all.iter().any(|path| path == needed), "{program}: {needed}: {all:?}");
            }
            assert!(!all.iter().any(|path| path == never), "{program}: {never}: {all:?}");
        }
    }

    #[test]
    fn readable_paths_follow_symlinked_qemu() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        for directory in ["bin", "store/qemu/bin"] {
            std::fs::create_dir_all(root.join(directory)).unwrap();
        }
        std::fs::write(root.join("store/qemu/bin/qemu"), "").unwrap();
        std::os::unix::fs::symlink("../store/qemu/bin/qemu", root.join("bin/qemu")).unwrap();
        let readable = readable(&root.join("bin/qemu"));
        assert!(
            readable.contains(&root.join("lib")) && readable.contains(&root.join("store/qemu/lib")),
            "{readable:?}"
        );
    }

    #[test]
    fn resolv_conf_directory_is_readable_only_if_system_owned() {
        let of = |file, is_root| directory_of(Path::new(file), is_root).map(|path| path.to_str().unwrap().to_owned());
        assert_eq!(of("/run/systemd/resolve/stub-resolv.conf", true).as_deref(), Some("/run/systemd/resolve"));
        assert_eq!(of("/etc/resolv.conf", false).as_deref(), Some("/etc"));
        assert_eq!(of("/etc/resolv.conf", true), None);
        for elsewhere in [
            "/run/resolv.conf",
            "/run/user/1000/resolv.conf",
            "/home/me/resolv.conf",
            "/mnt/wsl/resolv.conf",
            "/resolv.conf",
        ] {
            assert_eq!(of(elsewhere, false), None, "{elsewhere}");
        }
    }
}
