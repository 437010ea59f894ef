//! The guest's configuration of git.

use super::*;

fn guest_config(fixture: &Fixture) -> String {
    String::from_utf8(fixture.workspace().repository.guest_config().unwrap()).unwrap()
}

#[test]
fn config_values_round_trip_whatever_they_contain() {
    let fixture = Fixture::new();
    let hostile = [
        "a\nb",
        "\"",
        "\\",
        "# no comment",
        "; nor this",
        " lead and trail ",
        "a\tb",
        "[core]\n\thooksPath = /x",
        "é\u{1b}",
    ];
    for (number, value) in hostile.iter().enumerate() {
        fixture.git(&["config", &format!("branch.b{number}.description"), value]);
        fixture.git(&["config", &format!("branch.{}.merge", value.replace('\n', "")), "refs/heads/x"]);
    }
    let path = fixture.beside("config");
    fs::write(&path, guest_config(&fixture)).unwrap();
    let ask = |arguments: &[&str]| fixture.git(&[&["config", "--file", path.to_str().unwrap()], arguments].concat());
    for (number, value) in hostile.iter().enumerate() {
        let answer = ask(&["-z", "--get", &format!("branch.b{number}.description")]);
        assert_eq!(answer, [value.as_bytes(), b"\0"].concat());
        ask(&["--get", &format!("branch.{}.merge", value.replace('\n', ""))]);
    }
    let keys = String::from_utf8(ask(&["--list", "--name-only"])).unwrap();
    assert!(!keys.contains("core.hookspath"), "{keys}");
}

#[test]
fn config_levels_includes_and_conditions_are_resolved() {
    let fixture = Fixture::new();
    let root = fixture.root.display();
    fs::write(fixture.home().join("included"), "[user]\nname = Included\n[init]\ndefaultBranch = trunk\n").unwrap();
    fs::write(fixture.home().join("branchy"), "[user]\nemail = branch@example.org\n").unwrap();
    fs::write(
        fixture.home().join(".gitconfig"),
        format!(
            "[user]\nname = Home\nemail = home@example.org\n[includeIf \"gitdir:{root}/\"]\npath = included\n\
             [includeIf \"onbranch:main\"]\npath = ~/branchy\n[includeIf \"gitdir:/elsewhere/\"]\npath = missing\n\
             [core]\nautocrlf = input\n"
        ),
    )
    .unwrap();
    fixture.git(&["config", "core.autocrlf", "false"]);
    let config = guest_config(&fixture);
    for expected in
        ["name = \"Included\"", "email = \"branch@example.org\"", "autocrlf = \"false\"", "defaultbranch = \"trunk\""]
    {
        assert!(config.contains(expected), "{expected}: {config}");
    }
    assert!(!config.contains("include"), "{config}");
}

#[test]
fn credentials_are_not_passed_to_the_guest() {
    let fixture = Fixture::new();
    for (key, value) in [
        ("remote.origin.url", "https://user:secret@example.org/x"),
        ("remote.origin.pushurl", "https://secret@example.org/x"),
        ("http.extraHeader", "Authorization: secret"),
        ("url.https://secret@example.org/.insteadOf", "https://example.org/"),
        ("credential.helper", "secret"),
        ("core.worktree", fixture.root.to_str().unwrap()),
        ("submodule.x.update", "!secret"),
    ] {
        fixture.git(&["config", key, value]);
    }
    let config = guest_config(&fixture);
    for absent in ["secret", "worktree", "update ="] {
        assert!(!config.contains(absent), "{absent}: {config}");
    }
    assert!(config.contains("url = \"https://example.org/x\""), "{config}");
}

/// git takes a URL wherever it takes the name of a remote, and writes it where the name would be.
#[test]
fn tokens_in_urls_used_as_remote_names_are_removed() {
    let fixture = Fixture::new();
    let url = "https://user:secret@example.org/x";
    for (key, value) in [
        // `git push -u URL main`
        ("branch.main.remote", url),
        ("branch.main.pushRemote", url),
        ("branch.other.remote", "origin"),
        ("remote.pushDefault", url),
        // `git fetch --filter=blob:none URL`
        ("core.repositoryFormatVersion", "1"),
        ("extensions.partialClone", url),
        ("remote.https://user:secret@example.org/x.promisor", "true"),
        ("remote.https://user:secret@example.org/x.partialCloneFilter", "blob:none"),
    ] {
        fixture.git(&["config", key, value]);
    }
    let config = guest_config(&fixture);
    assert!(!config.contains("secret"), "{config}");
    for kept in [
        "remote = \"https://example.org/x\"",
        "pushremote = \"https://example.org/x\"",
        "remote = \"origin\"",
        "pushdefault = \"https://example.org/x\"",
        "partialclone = \"https://example.org/x\"",
        "[remote \"https://example.org/x\"]",
        "promisor = \"true\"",
    ] {
        assert!(config.contains(kept), "{kept}: {config}");
    }
    let partial = fixture.workspace().repository.partial().unwrap().unwrap();
    assert_eq!((partial.remote.as_str(), partial.filter.as_str()), ("https://example.org/x", "blob:none"));
}
