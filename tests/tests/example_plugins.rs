//! The plugins of `docs/examples`, as their users have them: on PATH, on real VMs.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use banger_tests::{Home, Output, eventually};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use serde_json::json;

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/examples/plugins")
}

/// Puts an example on the home's PATH.
fn install(home: &Home, name: &str) {
    home.program(name, fs::read(examples().join(name)).unwrap(), 0o755);
}

fn output(command: &mut Command) -> Output {
    command.output().expect("banger runs").into()
}

#[track_caller]
fn assert_described(home: &Home, name: &str) {
    let repository = home.repository("described");
    // Only plugins that were run once are asked.
    output(repository.with_plugins().args([name, "--banger-describe"])).ok();
    let list = output(repository.with_plugins().args(["--list", "--json"])).ok().document();
    let entry = list["commands"].as_array().unwrap().iter().find(|entry| entry["name"] == name).expect("it is listed");
    assert!(entry["description"].is_string() && entry["problem"].is_null(), "{entry}");
}

#[test]
fn shell_plugin_watch_reruns_command_on_file_change() {
    let home = Home::new();
    install(&home, "banger-watch");
    assert_described(&home, "watch");
    let repository = home.repository("r");
    repository.write(".gitignore", "ignored\n");
    let mut command = repository.with_plugins();
    command.args([
        "-q",
        "watch",
        "-n",
        "0.1",
        "-e",
        "GREETING=read",
        "--",
        "sh",
        "-c",
        "echo $GREETING; cat file; exit 3",
    ]);
    command.current_dir(repository.root.join("sub/folder")).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut watch = command.spawn().unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines().map(Result::unwrap);
    let mut said = BufReader::new(watch.stderr.take().unwrap()).lines().map(Result::unwrap);
    let mut run = || {
        let read = [lines.next().unwrap(), lines.next().unwrap()];
        (read, said.next().unwrap())
    };
    let waiting = "banger-watch: exit status 3; waiting for a change".to_owned();
    assert_eq!(run(), (["read".to_owned(), "below".to_owned()], waiting.clone()));
    repository.write("ignored", "nobody minds\n");
    repository.write("sub/folder/file", "changed\n");
    assert_eq!(run(), (["read".to_owned(), "changed".to_owned()], waiting.clone()));
    fs::remove_file(repository.root.join("README")).unwrap();
    assert_eq!(run(), (["read".to_owned(), "changed".to_owned()], waiting));
    nix::sys::signal::kill(Pid::from_raw(watch.id() as i32), Signal::SIGTERM).unwrap();
    assert_eq!(watch.wait().unwrap().code(), Some(143));

    let outside = output(repository.with_plugins().args(["watch", "--", "true"]).current_dir(home.path()));
    assert_eq!(outside.status, 125, "{}", outside.stderr);
}

#[test]
fn python_plugin_matrix_runs_each_combination() {
    let home = Home::new();
    install(&home, "banger-matrix");
    assert_described(&home, "matrix");
    let repository = home.repository("r");
    let script = "echo \"$A$B\"; test $A = 1";
    let matrix = |arguments: &[&str]| {
        output(repository.with_plugins().args(["-q", "matrix"]).args(arguments).args(["--", "sh", "-c", script]))
    };
    let image = "debian-bookworm-minimal";
    let answer = matrix(&["--json", "--image", image, "-e", "A=1,2", "-e", "B=x"]);
    assert_eq!((answer.status, answer.stderr.as_str()), (1, "1x\n2x\n"));
    let runs = &answer.document()["runs"];
    assert!(runs[0]["run_ms"].is_number() && runs[0]["error"].is_null(), "{runs}");
    let summary: Vec<_> =
        runs.as_array().unwrap().iter().map(|run| (&run["image"], &run["variables"], &run["exit_status"])).collect();
    let (one, two) = (json!({"A": "1", "B": "x"}), json!({"A": "2", "B": "x"}));
    assert_eq!(summary, [(&json!(image), &one, &json!(0)), (&json!(image), &two, &json!(1))]);

    let table = matrix(&["--image", "no-such-image"]);
    assert_eq!(table.status, 1);
    assert!(table.text().lines().nth(1).unwrap().starts_with("no-such-image  "), "{}", table.text());
    assert!(table.text().contains("unknown_image"), "{}", table.text());
    // Each was in a VM of its own, which is gone.
    assert!(home.vms().is_empty());
}

/// The example in Rust, which is built as one of the library's, with all that tests need of it.
fn changed() -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let program = target.join("debug/examples/banger-changed");
    assert!(program.exists(), "it is built by: cargo build --workspace --all-features --examples");
    program
}

/// What it says of itself is a package on its own, with dependencies that can be had.
fn assert_is_package(home: &Home) {
    let package = home.path().join("banger-changed");
    fs::create_dir_all(package.join("src")).unwrap();
    let banger = Path::new(env!("CARGO_MANIFEST_DIR")).join("../banger");
    let manifest = fs::read_to_string(examples().join("banger-changed/Cargo.toml")).unwrap();
    let manifest = manifest.replace("../../../../banger", banger.to_str().unwrap());
    fs::write(package.join("Cargo.toml"), manifest).unwrap();
    fs::copy(examples().join("banger-changed/src/main.rs"), package.join("src/main.rs")).unwrap();
    fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.lock"), package.join("Cargo.lock")).unwrap();
    let mut cargo = Command::new(env!("CARGO"));
    let platform = "x86_64-unknown-linux-gnu";
    cargo.args(["metadata", "--offline", "--format-version=1", "--filter-platform", platform]).current_dir(&package);
    let resolved = Output::from(cargo.output().unwrap()).ok().document();
    let package = resolved["packages"].as_array().unwrap().iter().find(|package| package["name"] == "banger-changed");
    let dependencies = package.unwrap()["dependencies"].as_array().unwrap();
    let names: Vec<_> = dependencies.iter().map(|dependency| dependency["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["banger", "clap", "serde"]);
}

#[test]
fn rust_plugin_changed_lists_unsynced_changes() {
    let home = Home::new();
    assert_is_package(&home);
    home.program("banger-changed", fs::read(changed()).unwrap(), 0o755);
    assert_described(&home, "changed");
    let repository = home.repository("r");
    let changed = |arguments: &[&str]| output(repository.with_plugins().arg("changed").args(arguments));
    let none = changed(&[]).ok();
    assert!(none.text().is_empty() && none.stderr.contains("no VM"), "{none:?}");
    repository.run(["--", "true"]).ok();
    assert_eq!(changed(&["-q"]).ok().text(), "");
    repository.sh("echo new >new; echo edited >README; git branch topic").ok();
    let answer = output(repository.with_plugins().args(["changed", "--json"]).current_dir(repository.root.join("sub")));
    assert_eq!(answer.status, 1, "{answer:?}");
    let answer = answer.document();
    assert_eq!((&answer["files"], &answer["references"]), (&json!(2), &json!(1)), "{answer}");
    let text = changed(&[]);
    assert_eq!(text.status, 1);
    assert!(["README", "new", "refs/heads/topic"].iter().all(|name| text.text().contains(name)), "{}", text.text());
    repository.run(["stop"]).ok();
    let stopped = changed(&["--json"]);
    assert_eq!((stopped.status, stopped.document()["kind"].as_str()), (125, Some("vm_not_running")));
    eventually("the VM is at rest", || home.processes().is_empty());
}
