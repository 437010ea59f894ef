//! What an interactive bash gets from banger when TAB is pressed. No VM is needed.

use std::fs;
use std::path::Path;
use std::process::Command;

/// What bash puts in the place of the last piece of each line, for somebody at home in `home`.
fn completed(home: &Path, lines: &[&str]) -> Vec<String> {
    let banger = Path::new(env!("CARGO_BIN_EXE_banger"));
    let tries: Vec<_> = lines.iter().map(|line| format!("try '{line}'\n")).collect();
    let imitation = include_str!("../../tests/src/bash_completion.sh");
    let script = format!("eval \"$(banger completions bash)\"\n{imitation}{}", tries.concat());
    let mut path = banger.parent().unwrap().as_os_str().to_owned();
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap());
    let mut bash = Command::new("bash");
    bash.env_clear().env("PATH", path).env("HOME", home).args(["--norc", "-c", &script]).current_dir(home);
    let output = bash.output().unwrap();
    assert_eq!((output.status.success(), output.stderr.len()), (true, 0), "{output:?}");
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn bash_completes_words_with_colons_and_equals_signs() {
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path().canonicalize().unwrap();
    fs::write(home.join("README"), "").unwrap();
    fs::create_dir_all(home.join("node_modules/@scope")).unwrap();
    fs::write(home.join("node_modules/@scope/package"), "").unwrap();
    let cases = [
        ("banger stat", "status"),
        ("banger -e A=b stat", "status"),
        ("banger -e A=b:c= -p 8080:80 stat", "status"),
        ("banger --color=ne", "never"),
        ("banger --color=", "auto always never"),
        ("banger -e A=b -- READ", "README"),
        ("banger -- node_modules/@sc", "@scope/"),
        ("banger cp node_modules/@scope/p", "@scope/package"),
        ("banger cp :/e", ""),
        ("banger cp box:", ""),
        ("banger cp box:et", ""),
        ("banger cp box:/etc/hosts READ", "README"),
        ("banger -e A=", ""),
    ];
    let lines = cases.map(|(line, _)| line);
    assert_eq!(completed(&home, &lines), cases.map(|(_, expected)| expected));
}
