//! A real project from Debian's archive, built and tested on the host and in the guest.

use std::fs;
use std::path::Path;

use banger_tests::{Home, Output, Repository};

/// Plain make, C, and a test suite that compares its results with known ones.
const PACKAGE: &str = "bzip2";

/// The host's own sources of Debian packages, turned into those of the packages' sources.
fn package_sources(folder: &Path) {
    fs::create_dir_all(folder).unwrap();
    let mut files = vec![("/etc/apt/sources.list".into(), 0)];
    let parts = fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().flatten();
    files.extend(parts.enumerate().map(|(number, part)| (part.path(), number + 1)));
    for (path, number) in files {
        let Ok(text) = fs::read_to_string::<&std::path::PathBuf>(&path) else { continue };
        let is_list = path.extension().is_some_and(|extension| extension == "list");
        let separator = if is_list { "\n" } else { "\n\n" };
        let debian = text.split(separator).filter(|entry| entry.contains("/debian ") || entry.contains("/debian\n"));
        let sources = debian.map(|entry| match is_list {
            true => entry.replacen("deb ", "deb-src ", 1),
            false => entry.replace("Types: deb\n", "Types: deb-src\n"),
        });
        let text = sources.collect::<Vec<_>>().join(separator) + "\n";
        let kind = if is_list { "list" } else { "sources" };
        fs::write(folder.join(format!("{number}.{kind}")), text).unwrap();
    }
}

/// Fetches the package's source as its authors released it, without a trace on the host.
fn fetch(home: &Home, into: &Path) {
    let apt = home.path().join("apt");
    package_sources(&apt.join("sources"));
    for folder in ["lists/partial", "cache/archives/partial", "source"] {
        fs::create_dir_all(apt.join(folder)).unwrap();
    }
    let run = |arguments: &[&str]| {
        let mut command = home.command("apt-get");
        command.arg("--option=Dir::Etc::SourceList=/dev/null");
        for (option, folder) in
            [("Dir::Etc::SourceParts", "sources"), ("Dir::State::Lists", "lists"), ("Dir::Cache", "cache")]
        {
            command.arg(format!("--option={option}={}", apt.join(folder).display()));
        }
        Output::from(command.args(arguments).current_dir(apt.join("source")).output().unwrap()).ok();
    };
    run(&["update"]);
    run(&["source", "--download-only", PACKAGE]);
    let files = fs::read_dir(apt.join("source")).unwrap().flatten().map(|entry| entry.path());
    let archive = files
        .filter(|path| path.to_string_lossy().contains(".orig.tar."))
        .find(|path| path.extension().is_some_and(|extension| extension != "asc"));
    let mut tar = home.command("tar");
    tar.args(["--extract", "--strip-components=1", "--file"]).arg(archive.unwrap()).arg("--directory").arg(into);
    Output::from(tar.output().unwrap()).ok();
}

fn compiled(output: &Output) -> Vec<String> {
    let text = output.text();
    let commands = text.lines().filter_map(|line| line.strip_prefix("gcc ")?.split(" -c ").nth(1));
    commands.map(str::to_owned).collect()
}

#[test]
fn project_builds_and_tests_in_guest_as_on_host() {
    let home = Home::new();
    let root = home.path().join("project");
    fs::create_dir(&root).unwrap();
    fetch(&home, &root);
    let repository: Repository<'_> = home.at(&root);
    repository.git(["init", "--quiet"]);
    repository.write(".gitignore", "*.o\n*.a\n/bzip2\n/bzip2recover\n/sample*.rb2\n/sample*.tst\n");
    repository.commit("as released");

    let guest = repository.run(["--", "make"]).ok();
    assert_eq!(compiled(&guest).len(), 9, "{}", guest.text());
    let elsewhere = home.path().join("copy");
    repository.git(["clone", "--quiet", ".", elsewhere.to_str().unwrap()]);
    let host = Output::from(home.command("make").current_dir(&elsewhere).output().unwrap()).ok();
    assert_eq!(guest.text(), host.text());

    // Nothing to compile, then one file's worth of it.
    let library = || repository.run(["--", "make", "libbz2.a"]).ok();
    assert!(compiled(&library()).is_empty());
    let source = fs::read_to_string(root.join("huffman.c")).unwrap();
    repository.write("huffman.c", format!("{source}\n/* edited */\n"));
    let again = library();
    assert_eq!((again.sent().files, compiled(&again)), (1, vec!["huffman.c".to_owned()]));
    assert!(compiled(&library()).is_empty());

    // A break shows as one, with the host's status.
    repository.write("huffman.c", format!("{source}\n#error broken\n"));
    let broken = repository.run(["--", "make"]);
    assert!(broken.status == 2 && broken.stderr.contains("broken"), "{broken:?}");
    repository.assert_same_git();
}
