//! What a repository asks of its VM: tools by mise, and set-up.

use std::fs;
use std::process::{Command, Stdio};

use banger_tests::inspect::send;
use banger_tests::registry::Layout;
use banger_tests::{Home, Output, Repository, eventually};
use nix::sys::signal::Signal;
use nix::unistd::Pid;

fn run(repository: &Repository<'_>, options: &[String], arguments: &[&str]) -> Output {
    repository.banger().args(options).args(arguments).output().unwrap().into()
}

/// The outcomes of a run of Python's unittest: of each test if it says so, and how many there were.
fn outcomes(text: &str) -> Vec<&str> {
    let mut all: Vec<_> = text.lines().filter(|line| line.contains(" ... ") && !line.starts_with(' ')).collect();
    all.sort_unstable();
    all.extend(text.lines().filter_map(|line| line.strip_prefix("Ran ")?.split(' ').next()));
    all
}

/// Two projects of PyPI in one workspace, and so in one VM. Its image has Python: to install that
/// in an emulated VM takes minutes.
#[test]
fn python_projects_get_tools_and_pass_their_tests() {
    let home = Home::with_own_images();
    let repository = home.repository("repo");
    let layout = Layout::new(home.path().join("layout"));
    layout.python("python", home.path());
    repository.run(["image", "pull", &layout.source("python"), "--name", "python"]).ok();
    // Plain Python; and one whose tests make git repositories.
    let projects = [
        ("slugify", "python-slugify==9.2.0", &["-m", "unittest", "discover", "-v", "-s", "tests"][..]),
        ("manifest", "check-manifest==0.51", &["-m", "unittest", "tests.TestGit"]),
    ];
    for (folder, release, _) in projects {
        let project = home.at(repository.root.join(folder));
        fs::create_dir(&project.root).unwrap();
        project.git(["init", "--quiet"]);
        project.fill_from_pypi(release);
    }
    let mut options = repository.client_options();
    options.push("--image=python".to_owned());

    repository.write("mise.toml", "[tools]\n\"pipx:cowsay\" = \"6.1\"\n");
    let install = "uv pip install --python /root/venv ./slugify ./manifest";
    let setup =
        format!("setup = ['uv venv /root/venv', '{install}']\nsetup_inputs = ['*/pyproject.toml', '*/setup.py']\n");
    repository.write("banger.toml", setup);
    let python = repository.venv_here(&projects.map(|(folder, ..)| folder));
    for (number, (folder, _, tests)) in projects.into_iter().enumerate() {
        let command = [&["-w", folder, "--", "/root/venv/bin/python"], tests].concat();
        let there = run(&repository, &options, &command);
        for note in ["installing the tools", "the tools are there", "set-up: uv venv", " + python-slugify==9.2.0"] {
            assert_eq!(there.stderr.contains(note), number == 0, "`{note}`: {}", there.stderr);
        }
        let here = Command::new(&python).args(tests).current_dir(repository.root.join(folder)).output();
        let here = Output::from(here.unwrap());
        assert!(!outcomes(&here.stderr).is_empty(), "{}", here.stderr);
        // Some may fail, in what was released. Then they fail there too.
        assert_eq!((there.status, outcomes(&there.stderr)), (here.status, outcomes(&here.stderr)));
    }
    // Tools are there for commands and login shells.
    let tools = run(&repository, &options, &["--", "sh", "-c", "cowsay -t hello; sh -lc 'command -v cowsay'"]).ok();
    assert!(tools.text().contains("| hello |"), "{}", tools.text());
    assert!(tools.text().ends_with("/root/.local/share/mise/shims/cowsay\n"), "{}", tools.text());
}

#[test]
fn setup_runs_again_when_its_inputs_change() {
    let home = Home::with_any_guests();
    let repository = home.repository("repo");
    repository.write("input", "1\n");
    repository.write("more/2", "2\n");
    let configuration = "setup = ['echo once more; sleep 2; cat input more/* >>/root/seen', 'test ! -e fail']\n\
                         setup_inputs = ['input', 'more']\n";
    repository.write("banger.toml", configuration);
    // Two commands at a time: the second waits for what the first does.
    let mut children = [(); 2].map(|()| {
        let mut command = repository.banger();
        command.args(["--", "cat", "/root/seen"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    });
    let [first, second] = children.each_mut().map(|child| child.id());
    assert_ne!(first, second);
    for child in children {
        let output = Output::from(child.wait_with_output().unwrap()).ok();
        assert_eq!(output.text(), "1\n2\n", "{}", output.stderr);
    }
    // Nothing that it depends on changes.
    repository.write("other", "");
    let output = repository.sh("cat /root/seen").ok();
    assert_eq!(output.text(), "1\n2\n");
    assert!(!output.stderr.contains("set-up"), "{}", output.stderr);
    // A new file in a folder; what it prints is no part of the command's output.
    repository.write("more/3", "3\n");
    let output = repository.sh("cat /root/seen").ok();
    assert_eq!(output.text(), "1\n2\n1\n2\n3\n");
    assert!(output.stderr.contains("\nonce more\n"), "{}", output.stderr);

    // The command is not run where it fails, and it is done all over the next time.
    repository.write("input", "4\n");
    repository.write("fail", "");
    let output = repository.run(["--", "touch", "/root/ran"]);
    assert_eq!(output.status, 125, "{}", output.stderr);
    assert!(output.stderr.contains("`test ! -e fail`, of `setup`, ended with exit status 1"), "{}", output.stderr);
    fs::remove_file(repository.root.join("fail")).unwrap();
    let output = repository.run(["--quiet", "--", "sh", "-c", "test ! -e /root/ran && tail -n3 /root/seen"]).ok();
    assert_eq!((output.text().as_str(), output.stderr.as_str()), ("4\n2\n3\n", ""));
    // An end by Ctrl-C is one for what runs in the guest, and not the set-up's.
    repository.write("input", "5\n");
    repository.write("banger.toml", configuration.replace("sleep 2", "sleep 4721"));
    let child = repository.banger().args(["--", "true"]).stderr(Stdio::piped()).spawn().unwrap();
    // A way into a VM whose set-up does not work.
    let inside = |arguments: &[&str]| -> Output {
        repository.banger().env("BANGER_SETUP", "[]").arg("--").args(arguments).output().unwrap().into()
    };
    let sleeps = || inside(&["pgrep", "-fx", "sleep 4721"]).status == 0;
    eventually("the set-up", sleeps);
    send(Pid::from_raw(child.id() as i32), Signal::SIGINT);
    assert_eq!(Output::from(child.wait_with_output().unwrap()).status, 130);
    eventually("the end of the set-up", || !sleeps());
    repository.write("banger.toml", configuration);
    assert!(repository.sh("true").ok().stderr.contains("set-up"));
}

#[test]
fn mise_runs_when_its_files_change_and_failure_is_not_fatal() {
    let home = Home::new();
    let repository = home.repository("repo");
    let options = repository.client_options();
    let run =
        |more: &[&str], script: &str| run(&repository, &options, &[more, &["--", "sh", "-c", script]].concat()).ok();

    repository.write("mise.toml", "[tools\n");
    let output = run(&[], "echo the command");
    assert_eq!(output.text(), "the command\n");
    let log = "/root/.cache/banger/vm-run-tooling-repo.log";
    assert!(output.stderr.contains(log), "{}", output.stderr);
    let output = run(&["--no-mise"], &format!("cat {log}"));
    assert!(output.text().contains("mise.toml"), "{}", output.text());
    // Not again for the same files, until the VM was started anew.
    assert!(!run(&[], "true").stderr.contains("mise"));
    repository.run(["stop"]).ok();
    assert!(run(&[], "true").stderr.contains(log));

    // What a file runs, it runs in the guest.
    let mark = home.path().join("mark");
    let mark = mark.to_str().unwrap();
    let template = format!("[env]\nFROM_MISE = \"{{{{ exec(command='mkdir -p {mark}; echo there') }}}}\"\n");
    repository.write("mise.toml", template);
    assert!(!run(&["--no-mise"], "true").stderr.contains("tools"));
    let output = run(&[], &format!("echo $FROM_MISE; test -d {mark}"));
    assert!(output.stderr.contains("the tools are there"), "{}", output.stderr);
    assert_eq!(output.text(), "there\n");
    assert_eq!(run(&["-e", "FROM_MISE=mine"], "echo $FROM_MISE").text(), "mine\n");
    assert_eq!(run(&["--no-mise"], "echo ${FROM_MISE-unset}").text(), "unset\n");
    // A project of a monorepo has its own besides; elsewhere they do not count.
    repository.write("project/mise.toml", "[env]\nOF_PROJECT = \"yes\"\n");
    let asked = "echo $FROM_MISE ${OF_PROJECT-no}; mise env >/dev/null 2>&1 && echo trusted";
    let output = run(&["-w", "project"], asked);
    assert!(output.stderr.contains("the tools are there"), "{}", output.stderr);
    assert_eq!(output.text(), "there yes\ntrusted\n");
    assert_eq!(run(&["-w", "project"], asked).text(), "there yes\ntrusted\n");
    assert_eq!(run(&[], asked).text(), "there no\ntrusted\n");
    let name = home.vm().file_name().unwrap().to_str().unwrap().to_owned();
    let inside = repository.run(["vm", "exec", &name, "-w", "project", "--", "sh", "-c", asked]).ok();
    assert_eq!(inside.text(), "there yes\ntrusted\n");
    assert!(!fs::exists(mark).unwrap());
    assert!(!run(&[], "true").stderr.contains("tools"));
    repository.write(".tool-versions", "# nothing yet\n");
    assert!(run(&[], "true").stderr.contains("the tools are there"));
}

#[test]
fn configured_owner_and_root_can_write_working_tree() {
    let home = Home::with_any_guests();
    let repository = home.repository("repo");
    let as_user = |script: &str| -> Output {
        let arguments = ["-u", "1000:1000", "-e", "HOME=/tmp", "--", "sh", "-c", script];
        repository.banger().args(arguments).output().unwrap().into()
    };
    // Without an owner it is root's.
    assert_ne!(as_user("echo new >made").status, 0);
    repository.write("banger.toml", "owner = \"1000:1000\"\n");
    let committed = "echo new >made && git add made && git commit -qm made && stat -c %u:%g made README sub .git/HEAD";
    assert_eq!(as_user(committed).ok().text(), "1000:1000\n".repeat(4));
    // What a sync brings is theirs too.
    repository.write("README", "changed\n");
    assert_eq!(as_user("cat README && echo more >>README").ok().text(), "changed\n");
    assert_eq!(
        repository.sh("tail -n 1 README; git log -1 --format=%s; git status -s").ok().text(),
        "more\nmade\n M README\n?? banger.toml\n"
    );
    repository.write("banger.toml", "owner = \"nobody-knows\"\n");
    let unknown = repository.run(["--json", "status"]);
    assert_eq!(unknown.status, 0, "{}", unknown.stderr);
    let unknown = repository.sh("true");
    assert_eq!(unknown.status, 125, "{}", unknown.stderr);
    assert!(
        unknown.stderr.contains("no user `nobody-knows`") && unknown.stderr.contains("`owner`"),
        "{}",
        unknown.stderr
    );
}

#[test]
fn outer_repository_config_is_reported_as_ignored_once() {
    let home = Home::with_any_guests();
    let outer = home.repository("outer");
    outer.write("banger.toml", "memory = \"600M\"\n");
    let library = home.repository("library");
    outer.git(["submodule", "--quiet", "add", library.root.to_str().unwrap(), "library"]);
    outer.commit("a submodule");
    let inner = home.at(outer.root.join("library"));
    let output = inner.sh("true").ok();
    let said = format!("ignoring {}: ", outer.root.join("banger.toml").display());
    assert_eq!(output.stderr.matches(&said).count(), 1, "{}", output.stderr);
    // It is news once.
    assert!(!inner.sh("true").ok().stderr.contains(&said));
    assert!(!outer.sh("true").ok().stderr.contains(&said));
    // A VM by name has no more of it.
    let named = inner.run(["vm", "run", ".", "--rm", "--", "true"]).ok();
    assert_eq!(named.stderr.matches(&said).count(), 1, "{}", named.stderr);
}
