//! What a `.worktreeinclude` would send: all rules, and in a few lines the files. What looks like a
//! secret comes first, and what is left out is counted.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use banger_agent::protocol::WireBytes;
use banger_vmm::printable;

use crate::git::INCLUDE_FILE;
use crate::output::units::count;

/// How many files are shown.
const SHOWN: usize = 20;
/// How many directories are named of those that hold the other files.
const SHOWN_DIRECTORIES: usize = 5;
/// How many characters are shown of a name: a longer one would scroll the others away.
const SHOWN_LENGTH: usize = 200;

/// Rules and files, for a person who is asked about them.
pub(super) struct Summary {
    /// What to show, line by line.
    pub(super) lines: Vec<String>,
    /// What it is about: such as "these files, and 3 files that are not shown,".
    pub(super) what: String,
}

impl Summary {
    /// The summary of `rules` as they are written, and the `files` that match them.
    pub(super) fn of(rules: &[Vec<u8>], files: &[WireBytes]) -> Summary {
        let (shown_files, other_files) = suspicious_first(files.iter().map(|file| &file.0[..]));
        let mut lines = vec![format!(
            "`{INCLUDE_FILE}` sends files that git ignores to the VM: those that match now, and those that will"
        )];
        lines.extend(rules.iter().map(|rule| format!("  rule `{}`", shown(rule))));
        if files.is_empty() {
            lines.push("  no ignored file matches now".to_owned());
        }
        lines.extend(shown_files.iter().map(|file| format!("  file `{}`", shown(file))));
        if other_files.is_empty() {
            return Summary { lines, what: "these files".to_owned() };
        }
        let others = count(other_files.len() as u64, "file", "files");
        lines.push(format!("  and {others} more: {}", directories(&other_files)));
        lines.push("  all of them: banger trust --list".to_owned());
        Summary { lines, what: format!("these files, and {others} that are not shown,") }
    }
}

/// A name or rule of the repository's, for a person; of a long one, the start.
pub(super) fn shown(name: &[u8]) -> String {
    let text = printable(name);
    match text.char_indices().nth(SHOWN_LENGTH) {
        Some((end, _)) => format!("{}… ({} bytes)", &text[..end], name.len()),
        None => text,
    }
}

/// What is shown of `all`, what looks like a secret first, and the rest.
fn suspicious_first<'a>(all: impl Iterator<Item = &'a [u8]>) -> (Vec<&'a [u8]>, Vec<&'a [u8]>) {
    let (mut shown, rest): (Vec<_>, Vec<_>) = all.partition(|path| looks_secret(path));
    shown.extend(rest);
    let others = shown.split_off(shown.len().min(SHOWN));
    (shown, others)
}

/// Whether a path has a name that secrets usually have.
fn looks_secret(path: &[u8]) -> bool {
    const WORDS: [&str; 8] = ["secret", "credential", "passw", "token", "private", "apikey", "api_key", "keystore"];
    const STARTS: [&str; 7] = [".env", ".ssh", ".aws", ".gnupg", ".kube", ".docker", "id_"];
    const NAMES: [&str; 6] = [".netrc", ".npmrc", ".pypirc", ".pgpass", ".htpasswd", "auth.json"];
    const ENDS: [&str; 11] =
        [".env", ".pem", ".key", ".p12", ".pfx", ".jks", ".kdbx", ".gpg", ".ppk", ".tfstate", ".tfvars"];
    let path = String::from_utf8_lossy(path).to_lowercase();
    path.split('/').any(|name| {
        WORDS.iter().any(|word| name.contains(word))
            || STARTS.iter().any(|start| name.starts_with(start))
            || NAMES.contains(&name)
            || ENDS.iter().any(|end| name.ends_with(end))
    })
}

/// How many files are in which directory at the root, those with the most first.
fn directories(files: &[&[u8]]) -> String {
    let mut counts = BTreeMap::<&[u8], u64>::new();
    for file in files {
        let end = file.iter().position(|byte| *byte == b'/').unwrap_or(0);
        *counts.entry(&file[..end]).or_default() += 1;
    }
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort_by_key(|(_, number)| Reverse(*number));
    let named = counts.iter().take(SHOWN_DIRECTORIES).map(|(directory, number)| match directory.is_empty() {
        true => format!("{number} at the root"),
        false => format!("{number} in `{}`", shown(directory)),
    });
    let mut named: Vec<_> = named.collect();
    let rest: u64 = counts.iter().skip(SHOWN_DIRECTORIES).map(|(_, number)| number).sum();
    if rest > 0 {
        named.push(format!("{rest} elsewhere"));
    }
    named.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(names: impl IntoIterator<Item = String>) -> Vec<WireBytes> {
        names.into_iter().map(WireBytes::from).collect()
    }

    #[test]
    fn few_rules_and_files_are_all_shown() {
        let summary = Summary::of(&[b".env.test".to_vec()], &files(["a/.env.test".to_owned()]));
        assert_eq!(summary.lines[1..], ["  rule `.env.test`", "  file `a/.env.test`"]);
        assert_eq!(summary.what, "these files");
        let summary = Summary::of(&[b"*.x".to_vec()], &[]);
        assert_eq!(summary.lines[1..], ["  rule `*.x`", "  no ignored file matches now"]);
    }

    #[test]
    fn decoys_hide_no_secret_and_are_counted() {
        let decoys = |number: usize| format!("a{}/decoy{number}", number % 7);
        let secrets = [".env", "config/Production.PEM", "z/.ssh/config", "z/id_ed25519", "z/my-Secrets.txt"];
        let all = files((0..9_000).map(decoys).chain(secrets.map(str::to_owned)).chain(["root".to_owned()]));
        // What matters is the last of as many as there may be.
        let mut rules: Vec<_> = (0..99).map(|number| format!("decoy{number}").into_bytes()).collect();
        rules.push(b"*".to_vec());
        let summary = Summary::of(&rules, &all);
        for secret in secrets {
            assert!(summary.lines.contains(&format!("  file `{secret}`")), "{secret}: {:?}", summary.lines);
        }
        assert_eq!(summary.lines[1..=100].iter().filter(|line| line.starts_with("  rule `decoy")).count(), 99);
        assert_eq!(summary.lines[100], "  rule `*`");
        let rest = summary.lines.iter().find(|line| line.contains("files more")).unwrap();
        assert!(rest.starts_with("  and 8986 files more: ") && rest.contains(" in `a"), "{rest}");
        assert!(rest.ends_with(" elsewhere"), "{rest}");
        assert_eq!(summary.what, "these files, and 8986 files that are not shown,");
        assert!(summary.lines.len() < 130, "{:?}", summary.lines);
    }

    #[test]
    fn long_and_deceptive_names_are_shown_harmlessly() {
        let long = format!("{}/.env", "x".repeat(4_000));
        let nasty = WireBytes(b"a\xff\x1b[2J\xe2\x80\x8b\xe2\x80\xae.env".to_vec());
        let summary = Summary::of(&[b"*".to_vec()], &[long.into(), nasty, "\u{e9}".repeat(201).into()]);
        assert_eq!(
            summary.lines[2..],
            [
                format!("  file `{}… (4005 bytes)`", "x".repeat(200)),
                "  file `a\\xff^[[2J\\u{200b}\\u{202e}.env`".to_owned(),
                format!("  file `{}… (402 bytes)`", "\u{e9}".repeat(200)),
            ]
        );
    }

    #[test]
    fn ordinary_names_are_not_taken_for_secrets() {
        for name in ["src/main.rs", "config/dev.toml", "environment.yml", "keys.rs", "identity.rs"] {
            assert!(!looks_secret(name.as_bytes()), "{name}");
        }
    }
}
