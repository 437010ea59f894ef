//! banger in the hands of a program: JSON for answers and errors, reports, no terminal, no home.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::Command;

use banger_tests::{Home, Output, banger_binary};
use nix::unistd::geteuid;
use serde_json::{Value, json};

fn output(command: &mut Command) -> Output {
    command.output().expect("banger runs").into()
}

/// Checks that an error is a JSON object, and nothing but that.
#[track_caller]
fn assert_error(output: &Output, kind: &str) {
    let error = output.document();
    assert_eq!((error["kind"].as_str(), output.stderr.as_str()), (Some(kind), ""), "{error}");
    assert_eq!(error["exit_code"], output.status, "{error}");
    assert!(!error["message"].as_str().unwrap().is_empty() && error["hints"].is_array() && error["details"].is_array());
}

#[test]
fn built_in_commands_print_one_json_document() {
    let home = Home::new();
    let repository = home.repository("r");
    let list = repository.run(["--list", "--json"]).ok().document();
    let names = list["commands"].as_array().unwrap().iter().filter(|entry| entry["kind"] == "built_in");
    let names: Vec<_> = names.map(|entry| entry["name"].as_str().unwrap()).collect();
    assert!(names.contains(&"status") && names.len() >= 4, "{names:?}");
    for name in names {
        for (folder, arguments) in [
            (&repository.root, &[name, "--json"][..]),
            (&repository.root, &["--json", name, "--no-such-option"]),
            (&repository.root, &[name, "--json", "one", "two", "three", "four"]),
            (&home.path().to_owned(), &["--json", name]),
        ] {
            let output = output(repository.banger().args(arguments).current_dir(folder));
            let answer = output.document();
            if output.status != 0 {
                assert_error(&output, answer["kind"].as_str().unwrap());
            }
        }
    }
    assert_error(&repository.run(["--json", "--no-such-option"]), "usage");
    assert_error(&repository.run(["--json", "--", "true"]), "usage");
    assert_error(&repository.run(["du", "extra", "--json"]), "usage");
    assert_error(&output(repository.banger().args(["stop", "--json"]).current_dir("/")), "no_workspace");
    assert_eq!(repository.run(["stop", "--json"]).ok().document(), json!({"vm": null, "stopped": false}));
    assert_eq!(repository.run(["rm", "--json"]).ok().document(), json!({"vm": null, "deleted": false}));
    assert!(home.vms().is_empty());

    // A config that cannot be read stops what needs it, and nothing else.
    let config = home.path().join(".config/banger/config.toml");
    fs::create_dir_all(&config).unwrap();
    assert_error(&repository.run(["unknown", "--json"]), "config");
    repository.run(["status", "--json"]).ok();
    fs::remove_dir(&config).unwrap();
    fs::File::create(&config).unwrap().set_len(100 << 20).unwrap();
    assert_error(&repository.run(["unknown", "--json"]), "config");
}

#[test]
fn commands_work_without_home_directory() {
    let home = Home::new();
    let repository = home.repository("r");
    let status = |command: &mut Command| output(command.args(["status", "--json"]).current_dir(&repository.root));
    let xdg = |variable: &str| home.path().join(variable);
    let mut without = home.command(banger_binary());
    without.env_remove("HOME").env("XDG_DATA_HOME", xdg("data")).env("XDG_CACHE_HOME", xdg("cache"));
    assert!(status(&mut without).ok().document()["vm"].is_null());
    if !geteuid().is_root() {
        // Only root can be a user without a home.
        return;
    }
    for path in ["r", "r/.git"] {
        chown(home.path().join(path), Some(54321), Some(54321)).unwrap();
    }
    let open = fs::Permissions::from_mode(0o755);
    fs::set_permissions(home.path(), open).unwrap();
    let installed = home.path().join("banger");
    fs::copy(banger_binary(), &installed).unwrap();
    // A user whom passwd(5) does not know.
    let unknown = || {
        let mut command = home.command("setpriv");
        command.args(["--reuid=54321", "--regid=54321", "--clear-groups", "--"]).arg(&installed).env_remove("HOME");
        command
    };
    let nowhere = status(&mut unknown());
    assert_error(&nowhere, "no_home");
    assert!(nowhere.document()["hints"][0].as_str().unwrap().contains("HOME"));
    let mut somewhere = unknown();
    somewhere.env("XDG_DATA_HOME", xdg("data")).env("XDG_CACHE_HOME", xdg("cache"));
    assert!(status(&mut somewhere).ok().document()["vm"].is_null());
    // Where nothing is kept, nothing is needed; and a run that failed for it has its report.
    assert!(output(unknown().arg("--list").current_dir("/")).ok().text().contains("status"));
    let report = repository.root.join("report.json");
    let run = output(unknown().args(["--report", "report.json", "--", "true"]).current_dir(&repository.root));
    assert_eq!(run.status, 125, "{}", run.stderr);
    assert_eq!(read(&report)["error"]["kind"], "no_home");
}

fn read(report: &Path) -> Value {
    serde_json::from_slice(&fs::read(report).expect("a report")).expect("JSON")
}

#[test]
fn report_records_exit_status_phases_and_counts() {
    let home = Home::new();
    let repository = home.repository("r");
    let report = home.path().join("report.json");
    let run = |arguments: &[&str]| {
        let _ = fs::remove_file(&report);
        output(repository.banger().arg("--report").arg(&report).args(arguments).env("CI", "true"))
    };
    // The first run makes and starts a VM, and sends everything.
    assert_eq!(run(&["--ready", "system", "--", "sh", "-c", "touch made; exit 3"]).status, 3);
    let first = read(&report);
    assert_eq!((first["exit_status"].as_u64(), first["error"].is_null()), (Some(3), true), "{first}");
    assert_eq!(first["command"], json!(["sh", "-c", "touch made; exit 3"]));
    assert_eq!(first["vm"].as_str(), home.vm().file_name().unwrap().to_str());
    assert_eq!(first["workspace"].as_str(), fs::canonicalize(&repository.root).unwrap().to_str());
    let phases = first["phases_ms"].as_object().unwrap();
    let names: Vec<_> = phases.keys().map(String::as_str).collect();
    assert_eq!(names, ["boot", "image", "kernel", "list", "other", "ready", "run", "sync"]);
    let total = first["total_ms"].as_f64().unwrap();
    let sum: f64 = phases.values().map(|ms| ms.as_f64().unwrap()).sum();
    assert!((sum - total).abs() < 1.0 && phases["boot"].as_f64().unwrap() > 100.0, "{first}");
    let counts = &first["counts"];
    assert_eq!((counts["files_listed"].as_u64(), counts["files_sent"].as_u64()), (Some(2), Some(2)), "{first}");
    assert!(counts["bytes_sent"].as_u64().unwrap() > 100, "{first}");

    // The next one finds it.
    repository.write("README", "changed\n");
    assert_eq!(run(&["--", "true"]).status, 0);
    let second = read(&report);
    assert!(second["phases_ms"].get("boot").is_none() && second["phases_ms"].get("ready").is_none(), "{second}");
    assert_eq!(second["counts"]["files_sent"], 1, "{second}");

    // A command that does not exist, one that was cut off, output that nobody reads.
    assert_eq!(run(&["--", "no-such-command"]).status, 127);
    let missing = read(&report);
    assert_eq!(
        (missing["error"]["kind"].as_str(), missing["exit_status"].as_u64()),
        (Some("command_not_found"), Some(127))
    );
    assert_eq!(run(&["--timeout", "1", "--", "sleep", "100"]).status, 124);
    assert_eq!(read(&report)["exit_status"], 124);
    let mut flood = repository.banger();
    flood.arg("--report").arg(&report).args(["--", "yes"]).stdout(std::process::Stdio::piped());
    let mut flood = flood.spawn().unwrap();
    drop(flood.stdout.take());
    assert_eq!(Output::from(flood.wait_with_output().unwrap()).status, 128 + 13);
    assert_eq!(read(&report)["exit_status"], 128 + 13);

    // What both sides changed.
    repository.sh("echo there >README").ok();
    repository.write("README", "here\n");
    assert_eq!(run(&["--", "true"]).status, 125);
    let conflict = read(&report);
    assert_eq!(conflict["error"]["kind"], "conflict");
    assert!(conflict["error"]["details"][0].as_str().unwrap().starts_with("README ("), "{conflict}");

    // Where no report can be written, nothing is run.
    for target in ["/dev/null", ".", "no/such/folder/report"] {
        let refused = repository.run(["--report", target, "--host-wins", "--", "touch", "/root/ran"]);
        assert_eq!(refused.status, 125, "{target}: {}", refused.stderr);
    }
    assert_eq!(repository.run(["--host-wins", "--", "test", "-e", "/root/ran"]).status, 1);
    let stopped = repository.run(["stop", "--json"]).ok().document();
    assert_eq!(stopped, json!({"vm": home.vm().file_name().unwrap().to_str(), "stopped": true}));
    assert_error(&repository.run(["delete", "--json"]), "guest_changes");
    repository.run(["delete", "--force", "--json"]).ok();
}

#[test]
fn closed_stdout_ends_command_with_sigpipe() {
    use std::os::unix::process::ExitStatusExt;
    let home = Home::new();
    let repository = home.repository("r");
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = repository.banger().args(["config"]).stdout(writer).output().unwrap();
    assert_eq!((output.status.signal(), String::from_utf8_lossy(&output.stderr).as_ref()), (Some(13), ""));
}
