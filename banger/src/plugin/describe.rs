//! What plugins say of themselves.

use std::path::Path;
use std::sync::Mutex;
use std::thread;

use serde::{Deserialize, Serialize};

use super::Environment;
use super::question::Question;

/// The argument that asks a plugin to describe itself.
pub(super) const ARGUMENT: &str = "--banger-describe";
/// How much it may say, in bytes.
const MAX_ANSWER: usize = 4 << 10;
/// How much of it is shown, in characters.
const MAX_SHOWN: usize = 200;
/// How many plugins are asked at a time.
const AT_A_TIME: usize = 32;

/// A plugin's answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// The version of the contract that it needs.
    pub api: u32,
    /// What it does, in one line.
    pub description: String,
}

/// Asks programs to describe themselves, all at the same time. One that does not within a second, or whose answer makes no sense,
/// has no description.
pub fn describe(programs: &[&Path], environment: &Environment) -> Vec<Option<Description>> {
    let next = Mutex::new(programs.iter().enumerate());
    let answers = Mutex::new(vec![None; programs.len()]);
    thread::scope(|scope| {
        for _ in 0..programs.len().min(AT_A_TIME) {
            scope.spawn(|| {
                // What is given back is taken under the lock, and worked on without it.
                let take = || next.lock().expect("nothing panics under it").next();
                while let Some((number, program)) = take() {
                    let answer = ask(program, environment);
                    answers.lock().expect("nothing panics under it")[number] = answer;
                }
            });
        }
    });
    answers.into_inner().expect("nothing panics under it")
}

fn ask(program: &Path, environment: &Environment) -> Option<Description> {
    let question = Question { arguments: &[ARGUMENT.into()], folder: Path::new("/"), most: MAX_ANSWER };
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
    use std::time::{Duration, Instant};

    use super::*;
    use crate::plugin::question::LIMIT;

    fn script(folder: &Path, name: &str, body: &str) -> PathBuf {
        let path = folder.join(name);
        fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    #[test]
    fn a_plugin_that_answers_as_it_should_not_has_no_description() {
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
        let answers = describe(&programs.each_ref().map(PathBuf::as_path), &environment);
        assert!(start.elapsed() < LIMIT * 3, "{:?}", start.elapsed());
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
