//! `--watch`: edits on the host reach a guest while a command runs there.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use banger_tests::guest_program::compile;
use banger_tests::inspect::send;
use banger_tests::{Home, Output, Repository, within};
use nix::sys::signal::Signal;
use nix::unistd::{Pid, geteuid};

/// How long an edit may take on a machine that is busy with other tests.
const LIMIT: Duration = Duration::from_secs(30);

/// A `banger sync --watch` that runs.
struct Watching<'a> {
    repository: &'a Repository<'a>,
    child: Child,
    lines: Receiver<String>,
    /// What it has said on standard error.
    said: Vec<String>,
    /// How long a line is waited for.
    limit: Duration,
}

impl<'a> Watching<'a> {
    fn start(repository: &'a Repository<'a>) -> Watching<'a> {
        let mut command = repository.banger();
        command.args(["sync", "--watch"]).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || stderr.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        let mut watching = Watching { repository, child, lines, said: Vec::new(), limit: LIMIT };
        watching.says("watching ");
        watching
    }

    /// Waits for a line with `part` in it, from now on.
    #[track_caller]
    fn says(&mut self, part: &str) -> String {
        let deadline = Instant::now() + self.limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(line) = self.lines.recv_timeout(left) else { panic!("no `{part}` in {:#?}", self.said) };
            self.said.push(line.clone());
            if line.contains(part) {
                return line;
            }
        }
    }

    /// How many lines with `part` in them it has said so far.
    fn count(&mut self, part: &str) -> usize {
        self.said.extend(self.lines.try_iter());
        self.said.iter().filter(|line| line.contains(part)).count()
    }

    /// A path of the working tree in the guest, which is a process of this host.
    fn there(&self, path: &str) -> PathBuf {
        let agents = self.repository.home.own_processes("lib/banger/banger-agent");
        let agent = agents.iter().map(|pid| Path::new("/proc").join(pid.to_string()).join("root/root/repo"));
        agent.into_iter().find(|root| root.join(".git").exists()).expect("a guest with a workspace").join(path)
    }

    /// Waits until the file has this content in the guest.
    #[track_caller]
    fn has(&mut self, path: &str, content: &str) {
        within(LIMIT, &format!("`{path}` in the guest is `{content}`"), || {
            fs::read_to_string(self.there(path)).is_ok_and(|found| found == content)
        });
    }

    /// Waits until nothing is at the path in the guest.
    #[track_caller]
    fn lacks(&mut self, path: &str) {
        within(LIMIT, &format!("no `{path}` in the guest"), || self.there(path).symlink_metadata().is_err());
    }

    /// Ends it as Ctrl-C does.
    fn interrupt(mut self) -> Output {
        send(Pid::from_raw(self.child.id() as i32), Signal::SIGINT);
        let mut output = Output::from(self.child.wait_with_output().unwrap());
        self.said.extend(self.lines.iter());
        output.stderr = self.said.join("\n");
        output
    }
}

/// A home whose guests' files are seen from here; none without root.
fn home() -> Option<Home> {
    geteuid().is_root().then(Home::with_process_guests)
}

#[test]
fn edits_reach_the_guest_while_watching() {
    let Some(home) = home() else { return };
    let repository = home.repository("repo");
    repository.write(".gitignore", "target/\n*.log\n");
    repository.write("target/built", "1");
    repository.commit("ignored");
    let root = &repository.root;
    let mut watching = Watching::start(&repository);
    repository.write("README", "edited\n");
    watching.has("README", "edited\n");
    // As editors save.
    repository.write("README.tmp", "saved\n");
    fs::rename(root.join("README.tmp"), root.join("README")).unwrap();
    watching.has("README", "saved\n");
    // Directories that are new, and what is made in them before they are watched, and after.
    repository.write("a/b/c/first", "1\n");
    watching.has("a/b/c/first", "1\n");
    repository.write("a/b/c/second", "2\n");
    watching.has("a/b/c/second", "2\n");
    fs::rename(root.join("a"), root.join("moved")).unwrap();
    watching.has("moved/b/c/second", "2\n");
    watching.lacks("a/b/c/second");
    repository.write("moved/b/c/second", "again\n");
    watching.has("moved/b/c/second", "again\n");
    fs::remove_file(root.join("moved/b/c/first")).unwrap();
    watching.lacks("moved/b/c/first");
    symlink("README", root.join("link")).unwrap();
    within(LIMIT, "the link", || fs::read_link(watching.there("link")).is_ok_and(|to| to == Path::new("README")));
    fs::set_permissions(root.join("README"), fs::Permissions::from_mode(0o755)).unwrap();
    let mode = || fs::metadata(watching.there("README")).map(|file| file.permissions().mode() & 0o777);
    within(LIMIT, "the mode", || mode().is_ok_and(|mode| mode == 0o755));
    // What is ignored does not travel, until the rules say something else.
    repository.write("target/built", "2");
    repository.write("noise.log", "noise\n");
    repository.write("sub/folder/file", "marker\n");
    watching.has("sub/folder/file", "marker\n");
    watching.lacks("noise.log");
    repository.write(".gitignore", "*.log\n");
    watching.has("target/built", "2");
    repository.write("target/built", "3");
    watching.has("target/built", "3");
    // Another command syncs in between.
    repository.write("README", "by a command\n");
    assert_eq!(repository.run(["--", "cat", "README"]).ok().text(), "by a command\n");
    repository.write("README", "last\n");
    watching.has("README", "last\n");
    let output = watching.interrupt();
    assert_eq!(output.status, 130, "{output:?}");
    assert!(!output.stderr.contains("warning"), "{}", output.stderr);
    assert_eq!(home.leftovers(), Vec::<PathBuf>::new());
    assert_eq!(repository.run(["--", "true"]).ok().sent().files, 0);
    repository.assert_same_files();
    repository.assert_same_git();
}

#[test]
fn branch_switch_is_one_sync() {
    let Some(home) = home() else { return };
    let repository = home.repository("repo");
    let write = |content: &str| {
        (0..600).for_each(|number| repository.write(&format!("d{}/f{number}", number % 20), content));
    };
    write("main\n");
    repository.commit("main");
    repository.git(["checkout", "--quiet", "-b", "other"]);
    write("other\n");
    repository.commit("other");
    let mut watching = Watching::start(&repository);
    let before = watching.count(" sent (");
    repository.git(["checkout", "--quiet", "main"]);
    watching.says("600 files sent");
    watching.has(".git/HEAD", "ref: refs/heads/main\n");
    // A commit moves a reference, and no file.
    repository.git(["commit", "--quiet", "--allow-empty", "--message", "empty"]);
    let tip = repository.git(["rev-parse", "HEAD"]);
    let name = ".git/refs/heads/main";
    within(LIMIT, "the commit", || fs::read_to_string(watching.there(name)).is_ok_and(|found| found == tip));
    watching.says("0 files sent");
    assert_eq!(watching.count(" sent (") - before, 2, "{:#?}", watching.said);
    assert_eq!(watching.interrupt().status, 130);
    repository.assert_same_git();
}

#[test]
fn conflict_is_told_once_and_holds_back_nothing_else() {
    let Some(home) = home() else { return };
    let repository = home.repository("repo");
    repository.write("other", "1\n");
    repository.commit("second");
    let mut watching = Watching::start(&repository);
    fs::write(watching.there("README"), "guest\n").unwrap();
    repository.write("README", "host\n");
    assert!(watching.says("changed both here").contains("README (changed here, changed in the VM)"));
    for content in ["2\n", "3\n"] {
        repository.write("other", content);
        watching.has("other", content);
    }
    repository.write("README", "host again\n");
    repository.write("other", "4\n");
    watching.has("other", "4\n");
    watching.has("README", "guest\n");
    assert_eq!(watching.count("changed both here"), 1, "{:#?}", watching.said);
    // A command settles it, and the watch goes on.
    repository.run(["sync", "--host-wins"]).ok();
    watching.has("README", "host again\n");
    repository.write("README", "host at last\n");
    watching.has("README", "host at last\n");
    assert_eq!(watching.interrupt().status, 130);
    assert_eq!(repository.guest_only(), (0, 0));
}

#[test]
fn directory_that_becomes_a_link_is_not_followed() {
    let Some(home) = home() else { return };
    let repository = home.repository("repo");
    let outside = home.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("file"), "secret\n").unwrap();
    let folder = repository.root.join("sub/folder");
    let mut watching = Watching::start(&repository);
    for round in 0..5 {
        fs::rename(&folder, repository.root.join("sub/aside")).unwrap();
        symlink(&outside, &folder).unwrap();
        fs::write(outside.join("file"), format!("secret {round}\n")).unwrap();
        if round == 4 {
            break;
        }
        fs::remove_file(&folder).unwrap();
        fs::rename(repository.root.join("sub/aside"), &folder).unwrap();
        fs::write(folder.join("file"), format!("own {round}\n")).unwrap();
    }
    within(LIMIT, "the link", || fs::read_link(watching.there("sub/folder")).is_ok_and(|to| to == outside));
    watching.has("sub/aside/file", "own 3\n");
    let syncs = watching.count(" sent (");
    fs::write(outside.join("file"), "secret again\n").unwrap();
    repository.write("README", "marker\n");
    watching.has("README", "marker\n");
    watching.says("1 file sent (7 B)");
    assert!(watching.count(" sent (") > syncs);
    let output = watching.interrupt();
    assert_eq!(output.status, 130, "{output:?}");
    // Nothing of what is behind the link was ever sent.
    let found = repository.run(["-q", "--", "grep", "-r", "secret", "."]);
    assert_eq!((found.status, found.text().as_str()), (1, ""), "{found:?}");
}

#[test]
fn watch_ends_with_the_vm_or_the_repository() {
    let Some(home) = home() else { return };
    let repository = home.repository("repo");
    let ends = |mut watching: Watching<'_>, why: &str| {
        watching.says(why);
        let status = Output::from(watching.child.wait_with_output().unwrap()).status;
        assert_eq!(status, 125, "{:#?}", watching.said);
    };
    let watching = Watching::start(&repository);
    repository.run(["stop", "--force"]).ok();
    repository.write("README", "too late\n");
    ends(watching, "was stopped");
    let watching = Watching::start(&repository);
    fs::rename(&repository.root, home.path().join("elsewhere")).unwrap();
    ends(watching, "is gone");
}

/// Edits a file while a command in the guest watches its directory.
fn event_fires_in_the_guest(home: &Home) {
    let repository = home.repository("repo");
    compile("seen", &repository.root.join("seen"));
    repository.commit("a program");
    let mut command = repository.banger();
    command.args(["--watch", "--", "./seen", "sub/folder", "file", "2"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    assert_eq!(stdout.next().as_deref(), Some("watches"));
    for content in ["edited\n", "edited again\n"] {
        repository.write("sub/folder/file", content);
        assert_eq!(stdout.next().as_deref(), Some("moved_to file"));
    }
    assert_eq!(stdout.next(), None);
    let output = Output::from(child.wait_with_output().unwrap()).ok();
    // Standard error has the line of the first sync, and of no other.
    assert_eq!(output.stderr.matches(" sent (").count(), 1, "{}", output.stderr);
    assert_eq!(repository.run(["--", "cat", "sub/folder/file"]).ok().text(), "edited again\n");
}

#[test]
fn edit_is_a_rename_for_whoever_watches_in_the_guest() {
    if let Some(home) = home() {
        event_fires_in_the_guest(&home);
    }
}

#[test]
fn edit_fires_file_events_in_a_vm() {
    event_fires_in_the_guest(&Home::new());
}

#[test]
fn guest_that_writes_all_the_time_holds_back_nothing_else() {
    let Some(home) = home() else { return };
    let repository = home.repository("repo");
    let mut watching = Watching::start(&repository);
    let vm = repository.only_vm();
    let script = "i=0; while [ ! -e stop ]; do i=$((i + 1)); echo guest $i >README; done";
    let mut command = repository.banger();
    command.args([
        "vm",
        "exec",
        vm.file_name().unwrap().to_str().unwrap(),
        "-w",
        "/root/repo",
        "--",
        "sh",
        "-c",
        script,
    ]);
    let mut busy = command.spawn().unwrap();
    let is_busy = |watching: &Watching<'_>| {
        fs::read_to_string(watching.there("README")).is_ok_and(|text| text.starts_with("guest "))
    };
    within(LIMIT, "the guest writes", || is_busy(&watching));
    for round in 0..5 {
        repository.write("README", format!("host {round}\n"));
        repository.write("sub/folder/file", format!("{round}\n"));
        watching.has("sub/folder/file", &format!("{round}\n"));
    }
    repository.write("stop", "");
    assert!(busy.wait().unwrap().success());
    assert!(is_busy(&watching));
    assert_eq!(watching.count("changed both here"), 1, "{:#?}", watching.said);
    assert_eq!(watching.interrupt().status, 130);
}

#[test]
fn guest_that_answers_no_sync_is_told_of_and_ends_with_the_watch() {
    let folder = tempfile::tempdir().unwrap();
    let agent = folder.path().join("hostile");
    compile("hostile", &agent);
    let home = Home::with_process_agent(&agent);
    let repository = home.repository("repo");
    let mut watching = Watching::start(&repository);
    watching.says(" sent (");
    let vm = repository.only_vm();
    let silence =
        || repository.run(["vm", "exec", vm.file_name().unwrap().to_str().unwrap(), "--", "next-sync", "silence"]);
    silence().ok();
    repository.write("README", "changed\n");
    // What an agent may take to answer are thirty seconds.
    watching.limit = 4 * LIMIT;
    watching.says("changes are not synced: the VM's agent does not answer");
    watching.says(" sent (");
    silence().ok();
    repository.write("README", "changed again\n");
    std::thread::sleep(Duration::from_secs(1));
    let start = Instant::now();
    assert_eq!(watching.interrupt().status, 130);
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
}
