//! `banger cp`, against a real guest and a hostile one.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::process::Stdio;

use banger_tests::inspect::send;
use banger_tests::{Home, Output, eventually};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use serde_json::Value;

#[test]
fn cp_copies_files_in_both_directions() {
    let home = Home::new();
    let repository = home.repository("r");
    let host = home.path().join("host");
    fs::create_dir_all(host.join("folder/deep")).unwrap();
    fs::write(host.join("folder/deep/file"), vec![5; 3_000_000]).unwrap();
    symlink("deep/file", host.join("folder/link")).unwrap();
    let output = repository.run(["cp", "README", ":/tmp"]);
    assert_eq!(output.status, 125);
    assert!(output.stderr.contains("has no VM"), "{}", output.stderr);
    repository.run(["--", "mkdir", "/srv/into"]).ok();

    let cp = |from: &str, to: &str| -> Output { repository.banger().args(["cp", from, to]).output().unwrap().into() };
    let path = |name: &str| host.join(name).to_str().unwrap().to_owned();
    // In: a folder into a folder, its contents, a file beside the workspace's.
    cp(&path("folder"), ":/srv/into").ok();
    cp(&path("folder/."), ":/srv/contents").ok();
    let output = cp(&path("folder/deep/file"), ":sub/copied").ok();
    assert!(output.stderr.contains("copied 1 file (3.0 MB)"), "{}", output.stderr);
    let script = "cd /srv; readlink into/folder/link contents/link; cmp into/folder/deep/file contents/deep/file; \
                  cmp contents/link /root/repo/sub/copied; stat -c '%U %a' into/folder/deep/file; find / -xdev -name '.banger-copy*'";
    assert_eq!(repository.sh(script).ok().text(), "deep/file\ndeep/file\nroot 644\n");

    // Out again, from the folder that matches where one stands.
    let below =
        repository.banger().current_dir(repository.root.join("sub")).args(["cp", ":copied", "."]).output().unwrap();
    Output::from(below).ok();
    assert_eq!(fs::read(repository.root.join("sub/copied")).unwrap(), vec![5; 3_000_000]);
    repository.sh("cd /srv/into; chmod 4755 folder/deep/file; mkfifo folder/fifo; ln -s /etc/passwd folder/out").ok();
    let output = cp(":/srv/into/folder", &path("back")).ok();
    assert!(output.stderr.contains("1 device, FIFO or socket stayed behind"), "{}", output.stderr);
    assert_eq!(fs::metadata(host.join("back/deep/file")).unwrap().mode() & 0o7777, 0o755);
    assert_eq!(fs::read_link(host.join("back/out")).unwrap().to_str(), Some("/etc/passwd"));
    // A link that is there is replaced, and not written through.
    fs::write(host.join("victim"), "precious").unwrap();
    symlink("victim", host.join("name")).unwrap();
    cp(":/etc/hostname", &path("name")).ok();
    assert_eq!(fs::read(host.join("victim")).unwrap(), b"precious");
    // One to a directory may have come with the copy before: the next does not go where it leads,
    // unless that is said.
    fs::create_dir(host.join("elsewhere")).unwrap();
    repository.sh("ln -s elsewhere /srv/planted; mkdir /srv/plain; echo evil >/srv/plain/profile").ok();
    cp(":/srv/planted", &path("planted")).ok();
    for from in [":/etc/hostname", ":/srv/plain", ":/srv/plain/."] {
        let output = cp(from, &path("planted"));
        assert!(output.status == 125 && output.stderr.contains("it is a link to a directory"), "{from}: {output:?}");
        assert_eq!(fs::read_dir(host.join("elsewhere")).unwrap().count(), 0);
    }
    cp(":/srv/plain/.", &path("planted/")).ok();
    assert_eq!(fs::read(host.join("elsewhere/profile")).unwrap(), b"evil\n");
    // Nor does it take the place of what is no file.
    nix::unistd::mkfifo(&host.join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let output = cp(":/etc/hostname", &path("fifo"));
    assert!(output.status == 125 && output.stderr.contains("which no copy replaces"), "{output:?}");

    // Archives.
    let archive = repository.run(["-q", "cp", ":/srv/into/folder/.", "-"]).ok().stdout;
    fs::create_dir(host.join("untarred")).unwrap();
    fs::write(host.join("archive.tar"), &archive).unwrap();
    let untarred =
        home.command("tar").args(["-xf", "archive.tar", "-C", "untarred"]).current_dir(&host).status().unwrap();
    assert!(untarred.success());
    assert_eq!(fs::read(host.join("untarred/deep/file")).unwrap(), vec![5; 3_000_000]);
    let output = repository.with_input(["cp", "-", ":/srv/archive", "--json"], &archive).ok();
    let copied: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&copied["files"], &copied["links"]), (&1.into(), &2.into()), "{copied}");
    repository.sh("cmp /srv/archive/deep/file /srv/into/folder/deep/file").ok();

    // Compressed, and with a hard link in it.
    fs::hard_link(host.join("untarred/deep/file"), host.join("untarred/hard")).unwrap();
    let packed = home.command("tar").args(["-czC", "untarred", "."]).current_dir(&host).output().unwrap().stdout;
    repository.with_input(["cp", "-", ":/srv/packed"], &packed).ok();
    repository.sh("cmp /srv/packed/hard /srv/archive/deep/file && [ /srv/packed/hard -ef /srv/packed/deep/file ]").ok();
    let nothing = repository.with_input(["cp", "-", ":/srv/packed"], b"");
    assert!(nothing.status == 125 && nothing.stderr.contains("nothing in the stream"), "{nothing:?}");

    for (from, to, why) in [
        (":/nothing", ".", "in the VM: cannot read `/nothing`"),
        ("nothing", ":/srv", "cannot read `nothing`"),
        (":/srv/into", "README", "it is no folder"),
        ("README", ":/srv/absent/x", "in the VM: cannot copy to"),
        ("README", "LICENSE", "one of the two places"),
        (":/a", ":/b", "one of the two places"),
        (":/dev/null", ".", "it is a device"),
    ] {
        let output = cp(from, to);
        assert_eq!(output.status, 125, "{from} {to}");
        assert!(output.stderr.contains(why), "{from} {to}: {}", output.stderr);
    }

    // Killed in the middle of a file: it has not got its name.
    repository.sh("head -c 300000000 /dev/urandom >/srv/big").ok();
    fs::create_dir(host.join("killed")).unwrap();
    let child =
        repository.banger().args(["cp", ":/srv/big", &path("killed/big")]).stderr(Stdio::null()).spawn().unwrap();
    // The file has no name yet; its link in /proc says where it is.
    let is_of_copy =
        |fd: fs::DirEntry| fs::read_link(fd.path()).is_ok_and(|file| file.starts_with(host.join("killed")));
    let fds = format!("/proc/{}/fd", child.id());
    let is_begun = || fs::read_dir(&fds).unwrap().flatten().any(is_of_copy);
    eventually("the beginning of the copy", is_begun);
    send(Pid::from_raw(child.id() as i32), Signal::SIGKILL);
    child.wait_with_output().unwrap();
    assert_eq!(fs::read_dir(host.join("killed")).unwrap().count(), 0);
    let mut child = repository.banger().args(["cp", &path("back"), ":/srv/cut"]).stderr(Stdio::null()).spawn().unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(repository.sh("find /srv -name '.banger-copy*'").ok().text(), "");
}
