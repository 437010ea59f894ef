//! Mistakes on the command line and in the configuration: what is said about them, by the program
//! itself. No VM is needed.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

/// Somebody at home who stands in a repository.
struct Place {
    _folder: tempfile::TempDir,
    home: PathBuf,
    repository: PathBuf,
}

impl Place {
    fn new() -> Place {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path().canonicalize().unwrap();
        let repository = home.join("r");
        fs::create_dir(&repository).unwrap();
        assert!(Command::new("git").args(["init", "--quiet"]).current_dir(&repository).status().unwrap().success());
        Place { _folder: folder, home, repository }
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_banger"));
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap()).env("HOME", &self.home);
        command.args(arguments).current_dir(&self.repository).output().unwrap()
    }

    /// What `banger <arguments>` says when it fails.
    #[track_caller]
    fn fails(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert_eq!((output.status.code(), output.stdout.len()), (Some(125), 0), "{arguments:?}: {output:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    #[track_caller]
    fn answer(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn configuration(&self) -> String {
        fs::read_to_string(self.home.join(".config/banger/config.toml")).unwrap_or_default()
    }
}

#[test]
fn commands_of_other_tools_get_banger_hints() {
    let place = Place::new();
    for (line, hint) in [
        ("run --rm -it make test", "banger --rm -- make test\n"),
        ("up", "banger start\n"),
        ("-it bash", "omit `-i` and `-t`"),
        ("-it -- bash", "omit `-i` and `-t`"),
    ] {
        let said = place.fails(&line.split(' ').collect::<Vec<_>>());
        assert!(said.contains(hint) && !said.contains("`cp`") && !said.contains("to pass"), "{line}: {said}");
    }
    let output = place.run(&["--json", "nosuch"]);
    let error: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(error["hints"][0], "to run it in the VM: banger -- nosuch");
}

#[test]
fn values_that_cannot_take_effect_are_refused() {
    let place = Place::new();
    for (key, value, why) in [
        ("alias.rm", "delete", "a command of banger's own"),
        ("alias.help", "status", "a command of banger's own"),
        ("alias", "{ stop = \"delete\" }", "a command of banger's own"),
        ("alias.-x", "status", "cannot name an alias"),
        ("alias.t", "", "stand for nothing"),
        ("memory", "99999G", "does not fit into this machine"),
        ("cpus", "255", "does not fit into this machine"),
    ] {
        let said = place.fails(&["config", "set", key, value]);
        assert!(said.contains(why) && said.contains("hint: "), "{key}: {said}");
    }
    assert_eq!(place.configuration(), "");
    // A repository's file is for larger machines too.
    let output = place.run(&["config", "set", "--repo", "memory", "99999G"]);
    assert!(output.status.success(), "{output:?}");
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("does not fit into this machine") && said.contains("; here, a VM gets at most "), "{said}");
    let said = place.fails(&["config", "set", "cpus", "255"]);
    assert!(said.contains("hint: the most here is ") && !said.contains("--cpus"), "{said}");
    assert!(place.fails(&["--cpus", "255", "--", "true"]).contains("does not fit into this machine"));
    assert!(place.fails(&["config", "set", "idle_timeout", "never"]).contains("`0` is never"));
}

#[test]
fn getting_an_unset_value_is_an_error() {
    let place = Place::new();
    for key in ["env.NOPE", "alias.nope", "catalog_url"] {
        assert!(place.fails(&["config", "get", key]).contains(&format!("`{key}` is not set")), "{key}");
    }
    assert!(!place.fails(&["config", "get", "env"]).contains("hint: "));
    assert!(place.fails(&["config", "get", "env.NOPE"]).contains("hint: to list all: banger config get env\n"));
    assert!(place.fails(&["config", "get", "ready"]).contains("hint: default: the image's\n"));
    place.answer(&["config", "set", "env.A", "1"]);
    assert_eq!(place.answer(&["config", "get", "env.A"]), "1\n");
    assert_eq!(place.answer(&["config", "get", "disk"]), "32G\n");
}

#[test]
fn help_and_version_have_json_output() {
    let place = Place::new();
    for (arguments, key, part) in [
        (&["help", "--json"][..], "help", "Usage: banger"),
        (&["--json", "--help"], "help", "Usage: banger"),
        (&["help", "stop", "--json"], "help", "banger stop"),
        (&["stop", "--help", "--json"], "help", "banger stop"),
        (&["port", "help", "add", "--json"], "help", "Usage: banger port add"),
    ] {
        let answer: serde_json::Value = serde_json::from_str(&place.answer(arguments)).unwrap();
        assert!(answer[key].as_str().unwrap().contains(part), "{arguments:?}: {answer}");
    }
    let version = place.answer(&["--version", "--json"]);
    assert_eq!(format!("banger {}", version.split('"').nth(3).unwrap()), place.answer(&["--version"]).trim_end());
    assert!(place.answer(&["help", "stop"]).contains("Usage: banger stop"));
}
