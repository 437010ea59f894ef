//! What a running guest tells whoever looks: what exists only there, its files for completion, its
//! ports.

use banger_tests::{Home, Output, Repository};
use serde_json::json;

/// What a shell proposes for the last of these words.
fn proposed(repository: &Repository<'_>, words: &[&str]) -> Vec<String> {
    let mut command = repository.banger();
    command.env("BANGER_COMPLETE", "fish").args(["--", "banger"]).args(words);
    let answer = Output::from(command.output().unwrap()).ok().text();
    answer.lines().map(|line| line.split('\t').next().unwrap().to_owned()).collect()
}

#[test]
fn running_guest_answers_status_and_completion() {
    let home = Home::with_any_guests();
    let repository = home.repository("r");
    assert!(proposed(&repository, &["cp", ":"]).is_empty());
    repository.sh("mkdir out 'a b'; touch out/one out/two .hidden; for n in 1 2 3 4; do touch new-$n; done").ok();

    // Names, and not numbers alone; of a list too, while it runs.
    let status = repository.run(["status", "--json"]).ok().document();
    assert_eq!(status["vm"]["guest_only"], json!({"files": 7, "references": 0}), "{status}");
    let names = status["vm"]["guest_only_names"].as_array().unwrap().clone();
    assert!(names.contains(&json!("/root/repo/out/two")) && names.len() == 7, "{status}");
    let text = repository.run(["status"]).ok().text();
    assert!(text.contains(" and 2 more: banger status -v\n"), "{text}");
    let name = status["vm"]["name"].as_str().unwrap();
    let text = repository.run(["status", name]).ok().text();
    assert!(text.contains(&format!(" and 2 more: banger status -v {name}\n")), "{text}");
    let all = repository.run(["status", "-v"]).ok().text();
    assert!(all.contains(" /root/repo/out/two\n") && !all.contains(" more"), "{all}");
    let listed = repository.run(["list", "--json"]).ok().document();
    assert_eq!(listed["vms"][0]["guest_only"], json!({"files": 7, "references": 0}), "{listed}");
    assert!(!repository.run(["ls"]).ok().text().contains("unknown"));

    // Files of the guest, from the directory that one stands in.
    assert_eq!(proposed(&repository, &["cp", ":o"]), [":out/"]);
    assert_eq!(proposed(&repository, &["cp", ":out/"]), [":out/one", ":out/two"]);
    assert_eq!(proposed(&repository, &["cp", &format!("{name}:.hid")]), [format!("{name}:.hidden")]);
    assert_eq!(proposed(&repository, &["cp", "READ"]), ["README"]);
    assert_eq!(proposed(&repository, &["cp", "README", ":a"]), [":a b/"]);
    assert!(proposed(&repository, &["cp", ":/etc/host"]).contains(&":/etc/hostname".to_owned()));
    assert!(proposed(&repository, &["cp", ":/no/such/"]).is_empty());
    assert!(proposed(&repository, &["cp", "no-such-vm:"]).is_empty());

    // Ports: which there are, and what to do where one cannot be.
    let forward = repository.run(["port", "add", "0:7000"]).ok().text();
    let port = forward.trim().rsplit(':').next().unwrap().to_owned();
    assert_eq!(proposed(&repository, &["port", "remove", ""]), [port.as_str()]);
    assert_eq!(proposed(&repository, &["port", "remove", "--vm", name, ""]), [port.as_str()]);
    for (arguments, what, hint) in [
        (
            &["port", "remove", "1"][..],
            "1 is not forwarded",
            &format!("to list forwards: banger port list --vm {name}"),
        ),
        (
            &["port", "add", "9000:9000", "9000:1"],
            "9000 cannot lead to both 9000 and 1",
            &"a port of its own".to_owned(),
        ),
        (
            &["port", "add", &format!("{port}:1")],
            "leads to 7000 already",
            &format!("banger port remove --vm {name} {port};"),
        ),
    ] {
        let refused = Output::from(repository.banger().args(arguments).output().unwrap());
        assert_eq!(refused.status, 125, "{refused:?}");
        assert!(refused.stderr.contains(what) && refused.stderr.contains(hint), "{arguments:?}: {}", refused.stderr);
        let wrong = arguments[1] == "remove" && refused.stderr.contains("choose another");
        assert!(!wrong, "{}", refused.stderr);
    }
    repository.run(["delete", "--force"]).ok();
}
