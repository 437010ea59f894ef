//! `banger doctor`, on a machine that is well, and on one that is not.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use banger_tests::{Home, Output, Repository, path_with};
use serde_json::Value;

/// What it answers of each thing, having checked the exit status.
fn doctor(repository: &Repository<'_>, more: &[&str], change: &[(&str, &str)], status: i32) -> Vec<Value> {
    let mut command = repository.banger();
    command.args(["doctor", "--json"]).args(more).envs(change.iter().copied());
    let output = Output::from(command.output().unwrap());
    assert_eq!(output.status, status, "{output:?}");
    output.document()["checks"].as_array().unwrap().clone()
}

#[track_caller]
fn check<'a>(checks: &'a [Value], name: &str, health: &str) -> &'a Value {
    let check = checks.iter().find(|check| check["name"] == name).expect("the check is there");
    assert_eq!(check["health"], health, "{check}");
    check
}

#[test]
fn doctor_reports_healthy_host() {
    let home = Home::new();
    let repository = home.repository("r");
    let checks = doctor(&repository, &[], &[], 0);
    // Which QEMU there is, and whether KVM spares it the work, is the machine's affair.
    let qemu = checks.iter().find(|check| check["name"] == "qemu").unwrap();
    assert!(qemu["found"].to_string().contains("QEMU emulator version") && qemu["health"] != "fail", "{qemu}");
    // So is what its kernel can confine.
    let confinement = checks.iter().find(|check| check["name"] == "confinement").unwrap();
    assert!(confinement["found"].to_string().contains("VMs are confined by seccomp"), "{confinement}");
    for name in [
        "banger",
        "configuration",
        "git",
        "ssh",
        "builder",
        "permissions",
        "images",
        "kernels",
        "vms",
        "firecracker",
        "backend",
    ] {
        assert!(check(&checks, name, "ok")["fix"].is_null());
    }
    let text = repository.run(["doctor"]).ok().text();
    assert_eq!(text.lines().filter(|line| !line.starts_with(' ')).count(), checks.len(), "{text}");
    assert!(text.contains("   qemu           QEMU emulator version"), "{text}");
    // A VM whose image somebody has removed.
    repository.run(["vm", "create", "--no-start", "--name", "orphan"]).ok();
    check(&doctor(&repository, &[], &[], 0), "vms", "ok");
    let images = home.data().join("images");
    fs::remove_file(&images).unwrap();
    fs::create_dir(&images).unwrap();
    let found = check(&doctor(&repository, &[], &[], 1), "vms", "fail")["found"].to_string();
    assert!(found.contains("`orphan`: its image `") && found.contains("not there any more"), "{found}");
    // Where there is nothing yet, all comes when it is wanted.
    let home = Home::with_own_kernels();
    let checks = doctor(&home.repository("r"), &[], &[], 0);
    for name in ["images", "kernels"] {
        let found = check(&checks, name, "ok")["found"].to_string();
        assert!(found.contains("comes when it is first wanted"), "{found}");
    }
    assert!(!home.data().join("vms").exists(), "looking makes nothing");
}

#[test]
fn doctor_names_fix_for_each_problem_and_removes_leftovers() {
    let home = Home::with_own_images();
    let repository = home.repository("r");
    let without = |name: &str, found: &str| {
        // The shell's own programs, and nothing else.
        let bare = home.path().join("nothing");
        fs::create_dir_all(&bare).unwrap();
        let checks = doctor(&repository, &[], &[("PATH", bare.to_str().unwrap())], 1);
        let check = check(&checks, name, "fail");
        assert!(check["found"].to_string().contains(found), "{check}");
        check["fix"].as_str().unwrap().to_owned()
    };
    assert_eq!(without("git", "no `git`"), "sudo apt-get install git");
    home.program("qemu-system-x86_64", "#!/bin/sh\necho QEMU emulator version 6.2.0\n", 0o755);
    let path = path_with(&home.bin());
    let checks = doctor(&repository, &[], &[("PATH", path.to_str().unwrap())], 0);
    assert!(check(&checks, "qemu", "warn")["found"].to_string().contains("older than 7.2"));

    let unknown = doctor(&repository, &[], &[("BANGER_DEFAULT_IMAGE_NAME", "debian-bokworm")], 1);
    assert!(check(&unknown, "images", "fail")["found"].to_string().contains("neither here nor in a catalog"));
    let key = home.path().join("key");
    fs::write(&key, "").unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    let with = |key: &str, found: &str| {
        let checks = doctor(&repository, &[], &[("BANGER_SSH_KEY_PATH", key)], 1);
        assert!(check(&checks, "ssh", "fail")["found"].to_string().contains(found));
    };
    with(key.to_str().unwrap(), "others may read");
    with("/no/key", "No such file");
    home.configure("memroy = 1\n");
    let checks = doctor(&repository, &[], &[], 1);
    let configuration = check(&checks, "configuration", "fail");
    assert!(
        configuration["found"].to_string().contains("memroy") && configuration["fix"].to_string().contains("memory")
    );
    home.configure("");

    let file = home.path().join("file");
    fs::write(&file, "").unwrap();
    let checks = doctor(&repository, &[], &[("HOME", file.to_str().unwrap())], 1);
    let disk = check(&checks, "disk", "fail");
    assert!(disk["found"].to_string().contains("is no folder") && disk["fix"].to_string().contains("HOME"), "{disk}");

    // What a pull has left that was killed.
    let leftover = home.data().join("images/.tmp-half");
    fs::create_dir(&leftover).unwrap();
    let checks = doctor(&repository, &[], &[], 0);
    assert_eq!(check(&checks, "vms", "warn")["fix"], "banger doctor --fix");
    let checks = doctor(&repository, &["--fix"], &[], 0);
    assert_eq!((&check(&checks, "vms", "ok")["fixed"], leftover.exists()), (&true.into(), false));
    // Of a VM nothing is removed, whatever it is like.
    let vm = home.data().join("vms/broken");
    fs::create_dir_all(&vm).unwrap();
    fs::write(vm.join("vm.json"), "{").unwrap();
    let checks = doctor(&repository, &["--fix"], &[], 1);
    assert!(check(&checks, "vms", "fail")["found"].to_string().contains("`broken`"));
    assert!(vm.join("vm.json").exists());
}

#[test]
fn directories_writable_by_others_are_refused() {
    let home = Home::new();
    let repository = home.repository("r");
    home.configure("cpus = 1\n");
    let (data, configuration) = (home.data(), home.path().join(".config/banger/config.toml"));
    let cache = home.path().join(".cache/banger");
    fs::create_dir_all(&cache).unwrap();
    fs::create_dir(data.join("trust")).unwrap();
    let commands: [&[&str]; 3] = [&["list"], &["--", "true"], &["vm", "list"]];
    let refused = |arguments: &[&str], path: &Path, problem: &str, hint: &str| {
        let output = Output::from(repository.banger().args(arguments).output().unwrap());
        assert_eq!(output.status, 125, "{arguments:?}: {output:?}");
        let named = output.stderr.contains(&format!("`{}` is not safe to use: {problem}", path.display()));
        assert!(named && output.stderr.contains(hint), "{arguments:?}: {}", output.stderr);
    };
    let set = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    for (path, check_name, commands) in [
        (&data, "permissions", &commands[..]),
        (&data.join("trust"), "permissions", &commands[..1]),
        (&cache, "permissions", &commands[..1]),
        (&configuration, "configuration", &[&["config"][..], &["--", "true"], &["an-alias"]]),
        (&configuration.parent().unwrap().to_owned(), "configuration", &[&["config"][..]]),
    ] {
        let before = fs::metadata(path).unwrap().permissions().mode();
        set(path, before | 0o022);
        commands
            .iter()
            .for_each(|arguments| refused(arguments, path, "every user may write to it (mode 0", "chmod go-w"));
        let checks = doctor(&repository, &[], &[], 1);
        let fix = check(&checks, check_name, "fail")["fix"].to_string();
        assert!(fix.contains(&format!("chmod go-w '{}'", path.display())), "{fix}");
        set(path, before);
        if nix::unistd::geteuid().is_root() {
            std::os::unix::fs::chown(path, Some(65534), None).unwrap();
            refused(commands[0], path, "it belongs to another user", "change its owner");
            std::os::unix::fs::chown(path, Some(0), None).unwrap();
        }
    }
    // A directory above, in which others may put another one in its place.
    let above = data.parent().unwrap();
    set(above, 0o777);
    refused(&["list"], above, "every user may replace what is in it", "chmod o-w");
    set(above, 0o755);
    check(&doctor(&repository, &[], &[], 0), "permissions", "ok");
}
