//! `banger foo`: built-in commands, aliases and plugins, and what they are told.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use banger_tests::{Home, Output, banger_binary, path_with};
use serde_json::Value;

fn output(command: &mut Command) -> Output {
    command.output().expect("banger runs").into()
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

#[test]
fn plugin_replaces_the_banger_process() {
    let home = Home::new();
    let repository = home.repository("r");
    let path = home.plugin(
        "tell",
        r#"echo "$$ $0 $#"; printf '<%s>' "$@"; echo; cat; pwd; env | grep -e BANGER -e COLOR | sort; exit 7"#,
    );
    let below = repository.root.join("sub/folder");
    let mut command = repository.with_plugins();
    command.args(["-q", "--color", "never", "tell", "-e", "two words", "--", "--help", ""]).current_dir(&below);
    command
        .stdin(fs::File::open(repository.root.join("README")).unwrap())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let child = command.env("BANGER_VERBOSE", "1").env("BANGER_WORKSPACE_ROOT", "/stale").spawn().unwrap();
    let pid = child.id();
    let told = Output::from(child.wait_with_output().unwrap());
    assert_eq!((told.status, told.stderr.as_str()), (7, ""));
    let (banger, root) = (fs::canonicalize(banger_binary()).unwrap(), fs::canonicalize(&repository.root).unwrap());
    let expected = format!(
        "{pid} {} 5\n<-e><two words><--><--help><>\na repository\n{}\nBANGER={}\nBANGER_COLOR=never\nBANGER_DEFAULT_IMAGE_NAME=debian-bookworm-minimal\nBANGER_PLUGIN_API=1\n\
         BANGER_PLUGIN_DEPTH=1\nBANGER_QUIET=1\nBANGER_VERSION={}\nBANGER_WORKSPACE_ROOT={}\nNO_COLOR=1\n",
        path.display(),
        fs::canonicalize(&below).unwrap().display(),
        banger.display(),
        env!("CARGO_PKG_VERSION"),
        root.display(),
    );
    assert_eq!(told.text(), expected);

    // Outside of a workspace, with another colour.
    let mut outside = repository.with_plugins();
    outside.args(["--color=always", "tell"]).current_dir(home.path()).env("BANGER_WORKSPACE_ROOT", "/stale");
    let outside = output(outside.env("NO_COLOR", "1")).text();
    assert!(outside.contains("BANGER_COLOR=always\n") && !outside.contains("NO_COLOR"), "{outside}");
    assert!(!outside.contains("BANGER_WORKSPACE_ROOT") && !outside.contains("BANGER_QUIET"), "{outside}");

    // What is set for a plugin holds for the banger that it runs.
    home.plugin("nested", r#"exec "$BANGER" stop"#);
    assert!(output(repository.with_plugins().arg("nested")).ok().stderr.contains("has no VM"));
    assert_eq!(output(repository.with_plugins().args(["-q", "nested"])).ok().stderr, "");

    home.plugin("wrong", r#"exec "$BANGER" wrnog"#);
    assert!(output(repository.with_plugins().args(["--color=always", "wrong"])).stderr.contains("\x1b["));

    // A signal ends it as it would without banger, and its writer dies of a closed pipe.
    home.plugin("crash", "kill -SEGV $$");
    assert_eq!(output(repository.with_plugins().arg("crash")).status, 128 + 11);
    home.plugin("flood", "exec yes");
    let mut flood = repository.with_plugins().arg("flood").stdout(Stdio::piped()).spawn().unwrap();
    drop(flood.stdout.take());
    assert_eq!(Output::from(flood.wait_with_output().unwrap()).status, 128 + 13);
    // Nothing of this made a VM.
    assert!(home.vms().is_empty());
}

#[test]
fn command_lookup_prefers_built_in_then_alias_then_plugin() {
    let home = Home::new();
    let repository = home.repository("r");
    for name in ["status", "ls", "both", "only"] {
        home.plugin(name, &format!("case $1 in --banger-describe) echo '{{\"api\":1,\"description\":\"says {name}\"}}';; *) echo {name} \"$@\";; esac"));
    }
    home.configure("[alias]\nstatus = 'only'\nboth = ['only', 'by alias']\nst = ['-q', 'status', '--json']\na = 'b'\nb = ['a', 'x']\nnothing = []\n");
    let run = |arguments: &[&str]| output(repository.with_plugins().args(arguments));
    assert!(run(&["status"]).ok().text().contains("none yet"));
    assert_eq!(run(&["both", "too"]).ok().text(), "only by alias too\n");
    assert_eq!(run(&["only", "--version"]).ok().text(), "only --version\n");
    assert!(json(&run(&["st"]).ok())["vm"].is_null());
    let looped = run(&["a", "--json"]);
    assert_eq!((looped.status, json(&looped)["kind"].as_str()), (125, Some("alias_loop")));
    assert!(json(&looped)["message"].as_str().unwrap().contains("a → b → a"));
    assert_eq!(json(&run(&["nothing", "--json"]))["kind"], "config");

    let list = json(&run(&["--list", "--json"]).ok());
    let entries = list["commands"].as_array().unwrap();
    let entry = |name: &str, kind: &str| {
        entries
            .iter()
            .find(|entry| entry["name"] == name && entry["kind"] == kind)
            .unwrap_or_else(|| panic!("{name}: {list}"))
    };
    assert_eq!(entry("status", "plugin")["shadowed_by"], "built_in");
    assert!(entry("status", "plugin")["description"].is_null());
    assert_eq!(entry("status", "alias")["shadowed_by"], "built_in");
    assert_eq!(entry("both", "plugin")["shadowed_by"], "alias");
    assert_eq!(entry("only", "plugin")["description"], "says only");
    assert_eq!(entry("only", "plugin")["path"].as_str(), home.bin().join("banger-only").to_str());
    assert!(json(&run(&["vm", "help", "run", "--json"]).ok())["help"].as_str().unwrap().contains("banger vm run"));
    assert!(entry("delete", "built_in")["also"].as_array().unwrap().iter().any(|name| name == "rm"));
    let text = run(&["--list"]).ok().text();
    assert!(text.contains("says only") && text.contains("never run: a built-in command has its name"), "{text}");

    let unknown = run(&["onyl", "--json"]);
    let error = json(&unknown);
    assert_eq!((unknown.status, unknown.stderr.as_str(), error["kind"].as_str()), (125, "", Some("unknown_command")));
    assert_eq!(error["hints"][0], "did you mean `only`?");
    assert!(error["hints"][1].as_str().unwrap().contains("banger -- onyl --json"), "{error}");
}

#[test]
fn plugin_that_cannot_be_executed_is_an_error() {
    let home = Home::new();
    let repository = home.repository("r");
    home.program("banger-closed", "#!/bin/sh\n", 0o644);
    home.program("banger-plain", "echo run by a shell\n", 0o755);
    home.program("banger-strange", "#!/no/such/interpreter\n", 0o755);
    home.program("banger-foreign", b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\xf7\0", 0o755);
    fs::create_dir(home.bin().join("banger-folder")).unwrap();
    symlink("nowhere", home.bin().join("banger-gone")).unwrap();
    let path = path_with(&home.bin());
    for (name, status, words) in [
        ("closed", 126, "chmod +x"),
        ("plain", 126, "#!/bin/sh"),
        ("strange", 126, "interpreter"),
        ("foreign", 126, "no program of this machine's kind"),
        ("folder", 126, "no file"),
        ("gone", 127, "leads nowhere"),
    ] {
        let output = output(repository.banger().env("PATH", &path).arg(name));
        assert_eq!((output.status, output.text().as_str()), (status, ""), "{name}: {}", output.stderr);
        assert!(output.stderr.contains(words) && output.stderr.contains(name), "{name}: {}", output.stderr);
    }

    // A repository cannot bring commands: only absolute folders count.
    repository.write("banger-evil", "#!/bin/sh\ntouch ran\n");
    repository.write("bin/banger-evil", "#!/bin/sh\ntouch ran\n");
    let chmod =
        home.command("chmod").args(["+x", "banger-evil", "bin/banger-evil"]).current_dir(&repository.root).status();
    assert!(chmod.unwrap().success());
    for path in ["", ".", ":", "bin", "./bin:/usr/bin", "/usr/bin:"] {
        let output = output(repository.banger().env("PATH", path).arg("evil"));
        assert_eq!(output.status, 125, "{path}: {}", output.stderr);
        assert!(output.stderr.contains("no command `evil`"), "{path}: {}", output.stderr);
    }
    assert!(!repository.root.join("ran").exists());

    // Plugins that run each other end.
    home.plugin("ping", r#"echo >>count; exec "$BANGER" pong"#);
    home.plugin("pong", r#"exec "$BANGER" ping"#);
    let looped = output(repository.banger().env("PATH", &path).arg("ping"));
    assert_eq!(looped.status, 125, "{}", looped.stderr);
    assert!(looped.stderr.contains("without end"), "{}", looped.stderr);
    assert_eq!(fs::read_to_string(repository.root.join("count")).unwrap(), "\n".repeat(8));

    // Options that are not for plugins.
    for arguments in [&["--rm", "ping"][..], &["-e", "A=1", "ping"], &["--json", "ping"]] {
        let output = output(repository.banger().env("PATH", &path).args(arguments));
        assert_eq!(output.status, 125, "{arguments:?}: {output:?}");
    }
    assert_eq!(fs::read_to_string(repository.root.join("count")).unwrap(), "\n".repeat(8));
}

#[test]
fn list_tolerates_misbehaving_plugins() {
    let home = Home::new();
    let repository = home.repository("r");
    home.plugin(
        "a-good-one",
        r#"echo ran >>"$HOME/ran"; echo '{"api": 1, "description": "does \u001b]0;owned\u0007good"}'"#,
    );
    home.plugin("b-floods", "exec yes");
    home.plugin("c-hangs", "trap '' TERM; sleep 1000");
    home.plugin("d-crashes", "kill -SEGV $$");
    home.plugin("e-of-tomorrow", r#"echo '{"api": 2, "description": "new"}'"#);
    home.plugin("f-\u{1b}[31m", "true");
    // What was never run is not run for a list.
    let unasked = output(repository.with_plugins().arg("--list")).ok().text();
    assert!(!home.path().join("ran").exists() && unasked.contains("a-good-one"), "{unasked}");
    assert!(unasked.contains("(run it once to see its description)"), "{unasked}");
    for name in ["a-good-one", "b-floods", "d-crashes", "e-of-tomorrow"] {
        let mut child = repository.with_plugins().arg(name).stdout(Stdio::piped()).spawn().unwrap();
        // One that floods ends with its reader.
        drop(child.stdout.take());
        child.wait().unwrap();
    }
    fs::remove_file(home.path().join("ran")).unwrap();
    let start = Instant::now();
    let listed = output(repository.with_plugins().args(["--list", "--json"])).ok();
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    let list = json(&listed);
    // banger's own beside it are none of this test.
    let is_ours = |path: &str| path.starts_with(home.path().to_str().unwrap());
    let plugins: Vec<_> = list["commands"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|entry| entry["path"].as_str().is_some_and(is_ours))
        .collect();
    let described: Vec<_> = plugins.iter().map(|entry| entry["description"].as_str()).collect();
    assert_eq!(described, [Some("does ^[]0;owned^Ggood"), None, None, None, Some("new"), None]);
    assert!(plugins[4]["problem"].as_str().unwrap().contains("needs version 2"));
    let text = output(repository.with_plugins().arg("--list")).ok().text();
    // What it said is kept.
    assert_eq!(fs::read_to_string(home.path().join("ran")).unwrap(), "ran\n");
    assert!(!text.contains(|c: char| c.is_control() && c != '\n'), "{text:?}");

    // Names alone are had without running anything.
    fs::remove_file(home.path().join("ran")).unwrap();
    let names = output(repository.with_plugins().args(["--list", "--quiet"])).ok().text();
    assert!(names.starts_with("status\n") && names.contains("\na-good-one\nb-floods\n"), "{names}");
    output(repository.with_plugins().arg("a-good-on"));
    assert!(!home.path().join("ran").exists());
}

/// Where `make install` puts a file that belongs to a shell.
fn installed(file: &str) -> String {
    let path = banger_binary().parent().and_then(Path::parent).unwrap().join("share").join(file);
    assert!(path.is_file(), "{} is not installed", path.display());
    path.to_str().unwrap().to_owned()
}

/// What a shell that finds banger, a plugin and an alias prints; none if it is not installed.
#[expect(clippy::print_stderr, reason = "a test that is skipped says so")]
fn completing(shell: &str, home: &Home, arguments: &[&str]) -> Option<Output> {
    if home.command(shell).arg("-c").arg("true").status().is_err() {
        // `scripts/test` says so too, where it is seen.
        eprintln!("SKIPPED: {shell} is not installed, so its completions are not tested");
        return None;
    }
    home.plugin("watch", "touch \"$HOME/ran\"");
    home.configure("[alias]\nwax = 'status'\npictures = '-q image'\n");
    let repository = home.repository("r");
    home.fake_vm("box", &repository.root, None);
    let mut path = path_with(&home.bin());
    path.push(":");
    path.push(banger_binary().parent().unwrap());
    let output = home.command(shell).args(arguments).env("PATH", path).current_dir(&repository.root).output().unwrap();
    assert!(!home.path().join("ran").exists(), "a plugin was run");
    Some(Output::from(output).ok())
}

/// Command lines, and what is proposed for each.
const PROPOSED: [(&str, &[&str]); 25] = [
    ("banger wa", &["wax", "watch"]),
    ("banger stat", &["status"]),
    ("banger -q wat", &["watch"]),
    ("banger --host", &["--host-wins"]),
    ("banger completions fi", &["fish"]),
    ("banger watch READ", &["README"]),
    ("banger -- READ", &["README"]),
    ("banger image pul", &["pull"]),
    ("banger -q image pull debian-bookworm-m", &["debian-bookworm-minimal"]),
    ("banger image delete debian-b", &["debian-bookworm-minimal"]),
    ("banger image ls --js", &["--json"]),
    ("banger pictures rm debian-b", &["debian-bookworm-minimal"]),
    ("banger kernel imp", &["import"]),
    ("banger kernel show gen", &["generic-6.12"]),
    ("banger vm cre", &["create"]),
    ("banger vm exec bo", &["box"]),
    ("banger vm run --image debian-bookworm-m", &["debian-bookworm-minimal"]),
    ("banger vm sho", &["show"]),
    ("banger vm insp", &["inspect"]),
    ("banger ssh-p", &["ssh-proxy"]),
    ("banger config set histo", &["history"]),
    ("banger config set history sha", &["shallow"]),
    // bash splits these words at colons and equals signs.
    ("banger -e A=b stat", &["status"]),
    ("banger -p 8080:80 stat", &["status"]),
    ("banger vm run -p 8080:80 --image debian-bookworm-m", &["debian-bookworm-minimal"]),
];

/// Completes lines as bash does.
const BASH_TRY: &str = include_str!("../src/bash_completion.sh");

#[test]
fn bash_completes_commands_aliases_and_plugins() {
    let home = Home::new();
    // Of a word that is split, bash replaces the last piece. Where nothing fits, nothing is printed
    // into the line either.
    let split = [
        ("banger --image=debian-bookworm-m", &["debian-bookworm-minimal"][..]),
        ("banger cp bo", &["box:"]),
        ("banger vm cp README bo", &["box:"]),
        ("banger cp box:", &[]),
        ("banger cp box:et", &[]),
        ("banger cp :/e", &[]),
        ("banger vm cp box:", &[]),
        ("banger image pull debian:1", &[]),
    ];
    let all = || PROPOSED.iter().chain(&split);
    let lines: Vec<_> = all().map(|(line, _)| format!("try '{line}'\n")).collect();
    let script = format!(
        "source {}\ncomplete -p banger | grep -q 'F _clap_complete_banger ' || exit\n{BASH_TRY}{}",
        installed("bash-completion/completions/banger"),
        lines.concat(),
    );
    let Some(output) = completing("bash", &home, &["--norc", "-c", &script]) else { return };
    let expected: Vec<_> = all().map(|(_, proposed)| proposed.join(" ") + "\n").collect();
    assert_eq!((output.text(), output.stderr.as_str()), (expected.concat(), ""));
}

#[test]
fn fish_completes_commands_aliases_and_plugins() {
    let home = Home::new();
    let lines: Vec<_> = PROPOSED.iter().map(|(line, _)| format!("complete -C '{line}'; echo ==\n")).collect();
    let script = format!("source {}\n{}", installed("fish/vendor_completions.d/banger.fish"), lines.concat());
    let Some(output) = completing("fish", &home, &["--no-config", "-c", &script]) else { return };
    let text = output.text();
    // Each line is a word, and what it is.
    let words = |answer: &str| -> Vec<String> {
        answer.lines().map(|line| line.split('\t').next().unwrap_or_default().to_owned()).collect()
    };
    let answers: Vec<_> = text.split("==\n").map(words).collect();
    let expected: Vec<_> = PROPOSED.iter().map(|(_, proposed)| proposed.to_vec()).collect();
    assert_eq!(answers[..PROPOSED.len()], expected, "{output:?}");
}

#[test]
fn zsh_completes_commands_aliases_and_plugins() {
    let home = Home::new();
    // A terminal in which the lines are typed; a key of its own notes what TAB has made of each.
    // The folder of functions is the installed one.
    let unique = PROPOSED.iter().filter(|(_, proposed)| proposed.len() == 1);
    let lines: Vec<_> = unique.clone().map(|(line, _)| format!("zpty -w -n shell '{line}'$'\\t\\C-xn'\n")).collect();
    let script = format!(
        r#"zmodload zsh/zpty
        zpty shell zsh -f -i
        zpty -w shell 'fpath=({} $fpath); autoload -U compinit; compinit -u -D'
        zpty -w shell 'note() {{ print -r -- $BUFFER >>$HOME/lines; BUFFER= }}; zle -N note; bindkey "^Xn" note'
        {}
        repeat 300; do
            while zpty -r -t shell; do :; done
            [[ -e $HOME/lines && $(wc -l <$HOME/lines) -ge {} ]] && break
            sleep 0.1
        done"#,
        Path::new(&installed("zsh/site-functions/_banger")).parent().unwrap().display(),
        lines.concat(),
        lines.len(),
    );
    let Some(output) = completing("zsh", &home, &["-f", "-c", &script]) else { return };
    let noted = fs::read_to_string(home.path().join("lines")).unwrap_or_default();
    let complete = |(line, proposed): &(&str, &[&str])| format!("{} {}", line.rsplit_once(' ').unwrap().0, proposed[0]);
    let expected: Vec<_> = unique.map(complete).collect();
    assert_eq!(noted.lines().map(str::trim_end).collect::<Vec<_>>(), expected, "{}", output.text());
}
