//! State files that are cut short or of a newer version, and a file system without room: nothing is
//! lost, and what to do is said.
//!
//! The guests are processes of this host.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::Stdio;

use banger_tests::{Home, Output, Repository, eventually};

const SHOW: [&str; 5] = ["--", "sh", "-c", "cat README only-here /root/kept; git status --short", "sh"];
const SHOWN: &str = "a repository\nin the workspace\non the disk\n?? only-here\n";

fn prepare<'a>(home: &'a Home) -> Repository<'a> {
    let repository = home.repository("r");
    repository.sh("echo in the workspace >only-here; echo on the disk >/root/kept").ok();
    repository.run(["stop"]).ok();
    repository
}

#[test]
fn truncated_state_files_are_rebuilt() {
    let home = Home::with_process_guests();
    let repository = prepare(&home);
    let files =
        ["activity.json", "sync/manifest", "sync/history", "guest/agent/sync/settings", "run.json", "console.log"];
    for (name, keep) in files.into_iter().flat_map(|name| [(name, 0), (name, 1), (name, 20)]) {
        let file = home.vm().join(name);
        let whole = fs::read(&file).unwrap_or_default();
        fs::write(&file, &whole[..keep.min(whole.len())]).unwrap();
        repository.run(["status"]).ok();
        repository.run(["list", "--json"]).ok();
        let output = repository.run(SHOW).ok();
        assert_eq!(output.text(), SHOWN, "{name} of {keep} bytes: {}", output.stderr);
        repository.run(["stop"]).ok();
        assert!(home.leftovers().is_empty(), "{:?}", home.leftovers());
    }
}

#[test]
fn guest_with_truncated_sync_log_overwrites_nothing() {
    let home = Home::with_process_guests();
    let repository = prepare(&home);
    repository.sh("echo edited there >>README").ok();
    repository.run(["stop"]).ok();
    let log = home.vm().join("guest/agent/sync/log");
    let whole = fs::read(&log).unwrap();
    for keep in [0, 4, 8, 60, whole.len() - 1] {
        fs::write(&log, &whole[..keep]).unwrap();
        let output = repository.run(["--", "true"]);
        // It may be known still that only the guest has changed it; if not, that is a conflict.
        assert!(output.status == 0 || output.stderr.contains("README"), "{keep} bytes: {output:?}");
        let there = repository.run(["--guest-wins", "-q", "--", "cat", "README", "only-here"]).ok();
        assert_eq!(there.text(), "a repository\nedited there\nin the workspace\n", "{keep} bytes: {}", there.stderr);
        repository.run(["stop"]).ok();
    }
    assert_eq!(fs::read_to_string(repository.root.join("README")).unwrap(), "a repository\n");
}

#[test]
fn newer_format_state_is_an_error_and_is_kept() {
    let home = Home::with_process_guests();
    let repository = prepare(&home);
    let newer = r#"{"format_version": 999, "what": "nobody knows"}"#;
    for name in ["vm.json", "run.json"] {
        let file = home.vm().join(name);
        let before = fs::read(&file).ok();
        fs::write(&file, newer).unwrap();
        let output = repository.run(["--", "true"]);
        assert_eq!(output.status, 125, "{name}: {output:?}");
        assert!(output.stderr.contains(name) && output.stderr.contains("999"), "{}", output.stderr);
        assert_eq!(fs::read_to_string(&file).unwrap(), newer);
        match before {
            Some(before) => fs::write(&file, before).unwrap(),
            None => fs::remove_file(&file).unwrap(),
        }
    }
    // That is no more than what is known of its last use.
    fs::write(home.vm().join("activity.json"), newer).unwrap();
    assert_eq!(repository.run(SHOW).ok().text(), SHOWN);
}

/// Runs `script` where a folder of banger's data is a file system of its own; `$1` is that folder,
/// `$2` banger.
fn with_own_file_system(repository: &Repository<'_>, folder: &str, script: &str) -> Output {
    let folder = repository.home.data().join(folder);
    fs::create_dir_all(&folder).unwrap();
    let banger = repository.banger();
    let mut command = repository.home.command("unshare");
    command.args(["--mount", "--", "sh", "-c", script, "sh"]).arg(&folder).arg(Path::new(banger.get_program()));
    command.env("BANGER_ACCELERATOR", "tcg").current_dir(&repository.root).output().unwrap().into()
}

#[test]
fn run_recovers_from_full_host_at_every_inode_and_block() {
    let home = Home::with_process_guests();
    let repository = home.repository("r");
    // From one that holds nothing to one that holds all, the first command fails, or it does not.
    // The next has room.
    let script = r#"
        vms=$1; banger=$2
        for limit in $LIMITS; do
            mount -t tmpfs -o "size=64M,nr_inodes=4096,$limit,mode=700" tmpfs "$vms"
            "$banger" -q -- true 2>"$vms/../error"; first=$?
            mount -o remount,size=64M,nr_inodes=4096 "$vms"
            "$banger" -q -- cat README >"$vms/../text" 2>>"$vms/../error"; next=$?
            "$banger" -q delete --force 2>>"$vms/../error"
            echo "$limit $first $next $? $(cat "$vms/../text") $(ls -A "$vms" | tr '\n' ' ')"
            [ "$first$next" = 00 ] || [ "$first$next" = 1250 ] || cat "$vms/../error"
            umount -l "$vms"
        done
    "#;
    let inodes = (2..70).map(|count| format!("nr_inodes={count}"));
    let sizes = (0..60).map(|count| format!("size={}k", 4 + count * count));
    for limits in [inodes.collect::<Vec<_>>(), sizes.collect()] {
        let script = script.replace("$LIMITS", &limits.join(" "));
        let output = with_own_file_system(&repository, "vms", &script).ok();
        let text = output.text();
        let right = |limit: &str| {
            let end = "0 0 a repository .lock ";
            [0, 125].iter().any(|first| text.contains(&format!("{limit} {first} {end}\n")))
        };
        let wrong: Vec<_> = limits.iter().filter(|limit| !right(limit)).collect();
        assert!(wrong.is_empty(), "{wrong:?}\n{text}{}", output.stderr);
        assert!(text.contains(&format!("{} 125 ", limits[0])) && text.contains(" 0 0 0 "), "{text}");
    }
    eventually("the end of all processes", || home.nothing_runs());
}

#[test]
fn guest_with_full_disk_still_runs_commands() {
    let home = Home::with_process_guests();
    let repository = home.repository("r");
    // The guest's disk is a file system of its own, which a command fills.
    let script = r#"
        vms=$1; banger=$2
        "$banger" -q -- true; "$banger" -q stop
        guest=$(echo "$vms"/*)/guest
        cp -a "$guest" ../kept
        mount -t tmpfs -o size=64M,mode=700 tmpfs "$guest"
        cp -a ../kept/. "$guest"
        "$banger" -- sh -c 'cat /dev/zero >big' 2>/dev/null
        echo edited >small
        "$banger" -- cat small 2>../small
        head -c 24M /dev/zero | tr '\0' x >large
        "$banger" -- rm big 2>../large; echo $?
        "$banger" -- sh -c 'wc -c <large' 2>../later
        "$banger" vm run . --name other -- true 2>../first; echo $?
        "$banger" -q delete --force; umount -l "$guest"
        for file in small large later; do echo "== $file"; cat ../$file; done
    "#;
    let output = with_own_file_system(&repository, "vms", script);
    let text = output.text();
    assert!(text.starts_with("edited\n0\n25165824\n0\n== small\n"), "{output:?}");
    let part = |name: &str| text.split("== ").find(|part| part.starts_with(name)).unwrap();
    assert!(part("large").contains("disk is full") && part("large").contains("banger vm exec"), "{text}");
    assert!(!part("small").contains("full") && !part("later").contains("full"), "{text}");
    repository.run(["vm", "delete", "--force", "other"]).ok();
    eventually("the end of all processes", || home.nothing_runs());
}

#[test]
fn image_store_recovers_from_full_host_at_every_block() {
    let home = Home::with_own_images();
    let repository = home.repository("r");
    // Two megabytes that do not compress, in a registered image, in its bundle, and in a layer.
    let script = r#"
        images=$1; banger=$2; cd "$images/.."
        mkdir tree && head -c 2M /dev/urandom >tree/noise && /usr/sbin/mke2fs -q -t ext4 -d tree rootfs.ext4 8M >/dev/null
        "$banger" image register -q --name base --rootfs rootfs.ext4 || exit
        "$banger" image export -q base -o base.tar.zst >catalog.toml || exit
        umoci init --layout layout && umoci new --image layout:x && umoci insert --rootless --image layout:x tree /tree || exit
        export BANGER_CATALOG_URL=$PWD/catalog.toml
        fill() {
            mount -t tmpfs -o "size=$1,mode=700" tmpfs "$images"; shift
            "$@" --json >answer 2>error; first=$?
            left=$(ls -A "$images" | grep -v '^\..*\.lock$' | tr '\n' ' ')
            mount -o remount,size=64M "$images"
            "$@" -q 2>>error; next=$?
            case "$first $left" in
                "125 ") grep -q '"kind":"no_space".*free some disk space' answer && echo "full $next" ;;
                "0 "*) echo "room $next" ;;
                *) cat answer error; echo "left: $left" ;;
            esac
            umount -l "$images"
        }
        for kilobytes in $(seq 40 197 4000); do
            echo "bundle $(fill "${kilobytes}k" "$banger" image pull base)"
            echo "layer $(fill "${kilobytes}k" "$banger" image pull oci:layout:x --name x)"
        done
        fill 1M "$banger" image register --name base --rootfs rootfs.ext4
    "#;
    let output = with_own_file_system(&repository, "images", script).ok();
    let text = output.text();
    for part in ["bundle full 0\n", "bundle room 0\n", "layer full 0\n", "layer room 0\n", "full 0\n"] {
        assert!(text.contains(part), "{part}: {text}{}", output.stderr);
    }
    let is_right = |line: &&str| line.ends_with(" 0");
    let wrong: Vec<_> = text.lines().filter(|line| !is_right(line)).collect();
    assert!(wrong.is_empty() && text.ends_with("\nfull 0\n"), "{text}{}", output.stderr);
}

#[test]
fn cp_keeps_a_disk_space_reserve() {
    let home = Home::with_process_guests();
    let repository = prepare(&home);
    // What fits in, and all of it but a little: 10 MiB and 1000 inodes, a hundredth of which stays
    // free. A hole takes nothing.
    let made = "cd /root; mkdir few most; head -c 10000k /dev/urandom >fits; head -c 10200k /dev/urandom >fills; \
                truncate -s 1T hole; (cd few; seq 900 | xargs touch); (cd most; seq 995 | xargs touch)";
    repository.sh(made).ok();
    let space = home.path().join("space");
    fs::create_dir(&space).unwrap();
    let script = r#"
        for from in fits fills hole few most; do
            mount -t tmpfs -o size=10M,nr_inodes=1000 tmpfs "$1"
            "$2" cp ":/root/$from" "$1" --json >answer; echo "$from $? $(grep -o 'no_space.*nearly full' answer)"
            rm answer
            # A file gets an archive, too, until little is left.
            test $from != fills || "$2" cp ":/root/$from" - 2>error >"$1/archive" || echo "archive $? $(grep -o 'nearly full' error)"
            umount "$1"
        done
    "#;
    let mut command = home.command("unshare");
    command.args(["--mount", "--", "sh", "-c", script, "sh"]).arg(&space).arg(repository.banger().get_program());
    let output = Output::from(command.current_dir(&repository.root).output().unwrap()).ok();
    let full = "no_space\",\"message\":\"cannot write";
    for line in output.text().lines() {
        let (from, rest) = line.split_once(' ').unwrap();
        match from {
            "fits" | "hole" | "few" => assert_eq!(rest, "0 ", "{line}: {}", output.stderr),
            "archive" => assert_eq!(rest, "125 nearly full"),
            _ => assert!(rest.starts_with(&format!("125 {full}")), "{line}: {}", output.stderr),
        }
    }
    assert_eq!(output.text().lines().count(), 6, "{output:?}");
}

#[test]
fn rm_keeps_the_exit_status_if_the_vm_cannot_be_deleted() {
    let home = Home::with_process_guests();
    let repository = home.repository("r");
    let mut command = home.command("unshare");
    command.args(["--mount", "--"]).arg(repository.banger().get_program());
    command.args(["--rm", "--", "sh", "-c", "echo up; read go; exit 7"]).current_dir(&repository.root);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut said = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut said).unwrap();
    assert_eq!(said, "up\n");
    // A directory that is a mount cannot be renamed, and deleting begins with that.
    let vm = home.vm();
    let namespace = format!("--mount=/proc/{}/ns/mnt", child.id());
    let mut mount = home.command("nsenter");
    mount.args([&*namespace, "mount", "--bind"]).args([&vm, &vm]);
    assert!(mount.status().unwrap().success());
    child.stdin.take().unwrap().write_all(b"\n").unwrap();
    let output = Output::from(child.wait_with_output().unwrap());
    assert_eq!(output.status, 7, "{}", output.stderr);
    assert!(output.stderr.contains("banger: warning: cannot delete the VM `"), "{}", output.stderr);
    assert_eq!(home.vms(), [vm]);

    repository.run(["--rm", "--", "true"]).ok();
    assert!(home.vms().is_empty() && home.nothing_runs());
}
