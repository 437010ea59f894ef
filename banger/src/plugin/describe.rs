//! What plugins say of themselves.

use std::path::Path;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Environment;
use super::known::KnownPlugins;
use super::question::Question;

/// The argument that asks a plugin to describe itself.
pub(super) const ARGUMENT: &str = "--banger-describe";
/// How much it may say, in bytes.
const MAX_ANSWER: usize = 4 << 10;
/// How much of it is shown, in characters.
const MAX_SHOWN: usize = 200;
/// How many plugins are asked at a time.
const AT_A_TIME: usize = 32;
/// How long an answer may take. An interpreter takes a tenth of a second to start, and several when
/// the machine is busy; what was answered is kept, so that a slow one is waited for once.
const LIMIT: Duration = Duration::from_secs(5);

/// A plugin's answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// The version of the contract that it needs.
    pub api: u32,
    /// What it does, in one line.
    pub description: String,
}

/// What programs say of themselves. Those that may be asked, and have not answered before, are
/// asked, all at the same time. One that does not answer within [`LIMIT`], or whose answer makes no
/// sense, has no description.
pub fn describe(programs: &[&Path], known: &KnownPlugins, environment: &Environment) -> Vec<Option<Description>> {
    let mut answers: Vec<_> = programs.iter().map(|program| known.description(program)).collect();
    let asked: Vec<_> = (0..programs.len()).filter(|&n| answers[n].is_none() && known.may_ask(programs[n])).collect();
    let programs_asked: Vec<_> = asked.iter().map(|&number| programs[number]).collect();
    for (number, answer) in asked.into_iter().zip(ask_all(&programs_asked, environment, LIMIT)) {
        answer.iter().for_each(|description| known.keep(programs[number], description));
        answers[number] = answer;
    }
    answers
}

fn ask_all(programs: &[&Path], environment: &Environment, limit: Duration) -> Vec<Option<Description>> {
    let next = Mutex::new(programs.iter().enumerate());
    let answers = Mutex::new(vec![None; programs.len()]);
    thread::scope(|scope| {
        for _ in 0..programs.len().min(AT_A_TIME) {
            scope.spawn(|| {
                // What is given back is taken under the lock, and worked on without it.
                let take = || next.lock().expect("nothing panics under it").next();
                while let Some((number, program)) = take() {
                    let answer = ask(program, environment, limit);
                    answers.lock().expect("nothing panics under it")[number] = answer;
                }
            });
        }
    });
    answers.into_inner().expect("nothing panics under it")
}

fn ask(program: &Path, environment: &Environment, limit: Duration) -> Option<Description> {
    let question = Question { arguments: &[ARGUMENT.into()], folder: Path::new("/"), most: MAX_ANSWER, limit };
    let mut description: Description = serde_json::from_slice(&question.ask(program, environment)?).ok()?;
    let line = description.description.lines().next().unwrap_or_default().trim();
    description.description = banger_vmm::printable(line.as_bytes()).chars().take(MAX_SHOWN).collect();
    Some(description)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;
    use std::time::Instant;

    use super::*;

    fn script(folder: &Path, name: &str, body: &str) -> PathBuf {
        let path = folder.join(name);
        fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    #[test]
    fn describe_runs_only_known_plugins_once() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let body = |name: &str| {
            // As slow as an interpreter on a busy machine.
            format!("echo >>{}.ran; sleep 1.2; echo '{{\"api\": 1, \"description\": \"{name}\"}}'", at(name).display())
        };
        let programs = ["known", "foreign"].map(|name| script(folder.path(), name, &body(name)));
        let programs = programs.each_ref().map(PathBuf::as_path);
        let environment = Environment::new("/b".into(), None).unwrap();
        let known = KnownPlugins::new(Some(&at("cache")), None);
        let ran = |name: &str| fs::read_to_string(at(&format!("{name}.ran"))).unwrap_or_default().len();
        assert_eq!(describe(&programs, &known, &environment), [None, None]);
        assert_eq!([ran("known"), ran("foreign")], [0, 0]);
        known.note(programs[0]);
        for _ in 0..2 {
            let described = Description { api: 1, description: "known".to_owned() };
            assert_eq!(describe(&programs, &known, &environment), [Some(described), None]);
            assert_eq!([ran("known"), ran("foreign")], [1, 0]);
        }
    }

    #[test]
    fn misbehaving_plugin_has_no_description() {
        let folder = tempfile::tempdir().unwrap();
        let pid = folder.path().join("pid");
        let script = |name: &str, body: &str| script(folder.path(), name, body);
        let good = r#"{"api": 1, "description": "Says \u001b[31mhi\nand more", "of a later version": []}"#;
        let programs = [
            script("good", &format!("[ \"$1\" = --banger-describe ] && [ \"$BANGER\" = /b ] && cat <<'E'\n{good}\nE")),
            script("floods", "exec yes '{\"api\": 1, \"description\": \"x\"}'"),
            script("hangs", &format!("sleep 1000 & echo $! >{}; wait", pid.display())),
            script("holds-the-pipe", "echo '{\"api\": 1, \"description\": \"x\"}'; sleep 1000 &"),
            script("fails", "echo '{\"api\": 1, \"description\": \"x\"}'; exit 1"),
            script("crashes", "kill -SEGV $$"),
            script("reads", "read line && echo '{\"api\": 1, \"description\": \"x\"}'"),
            script("talks", "echo usage: talks"),
            folder.path().join("missing"),
        ];
        let environment = Environment::new("/b".into(), None).unwrap();
        let start = Instant::now();
        let limit = Duration::from_secs(1);
        let answers = ask_all(&programs.each_ref().map(PathBuf::as_path), &environment, limit);
        assert!(start.elapsed() < limit * 3, "{:?}", start.elapsed());
        let described = Description { api: 1, description: "Says ^[[31mhi".to_owned() };
        assert_eq!(answers[0], Some(described));
        assert!(answers[1..].iter().all(Option::is_none), "{answers:?}");
        // What a plugin has started is gone too.
        let child: i32 = fs::read_to_string(pid).unwrap().trim().parse().unwrap();
        let is_gone = || match fs::read_to_string(format!("/proc/{child}/stat")) {
            Ok(stat) => stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('Z')),
            Err(_) => true,
        };
        while !is_gone() {
            assert!(start.elapsed() < Duration::from_secs(30), "process {child} lives on");
            thread::sleep(Duration::from_millis(10));
        }
    }
}
