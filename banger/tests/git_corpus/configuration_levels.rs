//! Configuration that git reads from other places than files of the repository: compared with git's
//! own answer.

use std::ffi::OsString;

use super::*;

/// What git on this machine says `key` is, in `folder` with these variables.
fn git_says(fixture: &Fixture, folder: &Path, variables: &[(&str, &str)], key: &str) -> String {
    let output = std::process::Command::new("git")
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .env("HOME", fixture.home())
        .env("PWD", folder)
        .envs(variables.iter().copied())
        .args(["config", "--get", key])
        .current_dir(folder)
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}

/// What the guest's configuration says `key` is.
fn guest_says(fixture: &Fixture, folder: &Path, variables: &[(&str, &str)], key: &str) -> String {
    let workspace = Workspace::discover(folder, with(fixture, folder, variables)).unwrap();
    let path = fixture.beside("guest-config");
    fs::write(&path, workspace.repository.guest_config().unwrap()).unwrap();
    let output = fixture.try_git_in(&fixture.home(), &["config", "--file", path.to_str().unwrap(), "--get", key]);
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}

fn with(fixture: &Fixture, folder: &Path, variables: &[(&str, &str)]) -> Host {
    let variables = variables.iter().map(|(name, value)| (OsString::from(name), OsString::from(value))).collect();
    Host { variables, pwd: Some(folder.to_owned()), ..fixture.host() }
}

#[track_caller]
fn assert_same(fixture: &Fixture, folder: &Path, variables: &[(&str, &str)], key: &str, expected: &str) {
    let git = git_says(fixture, folder, variables, key);
    assert_eq!(git, expected, "git itself, {variables:?}");
    assert_eq!(guest_says(fixture, folder, variables, key), git, "{variables:?}");
}

#[test]
fn git_config_variables_replace_files_and_add_values() {
    let fixture = Fixture::new();
    let file = |name: &str, content: &str| -> String {
        fs::write(fixture.beside(name), content).unwrap();
        fixture.beside(name).to_str().unwrap().to_owned()
    };
    let global = file("global", "[user]\nemail = global@example.org\n");
    let system = file("system", "[user]\nemail = system@example.org\n[init]\ndefaultBranch = system\n");
    file("included", "[user]\nemail = included@example.org\n");
    let includes = file("includes", "[include]\npath = included\n");
    let home = "author@example.org";
    let email = |variables: &[(&str, &str)], expected: &str| {
        assert_same(&fixture, &fixture.root, variables, "user.email", expected);
    };
    email(&[("GIT_CONFIG_GLOBAL", &global)], "global@example.org");
    email(&[("GIT_CONFIG_GLOBAL", &includes)], "included@example.org");
    email(&[("GIT_CONFIG_GLOBAL", "/dev/null")], "");
    email(&[("GIT_CONFIG_GLOBAL", "")], "");
    email(&[("GIT_CONFIG_GLOBAL", "/nowhere"), ("GIT_CONFIG_SYSTEM", &system)], "system@example.org");
    let none = ("GIT_CONFIG_GLOBAL", "");
    for (value, expected) in
        [("1", ""), ("true", ""), ("yes", ""), ("0", "system@example.org"), ("", "system@example.org")]
    {
        email(&[none, ("GIT_CONFIG_SYSTEM", &system), ("GIT_CONFIG_NOSYSTEM", value)], expected);
    }
    let system = ("GIT_CONFIG_SYSTEM", system.as_str());
    assert_same(&fixture, &fixture.root, &[system], "init.defaultbranch", "system");
    let one = |value| [("GIT_CONFIG_COUNT", "1"), ("GIT_CONFIG_KEY_0", "User.eMail"), ("GIT_CONFIG_VALUE_0", value)];
    email(&one("count@example.org"), "count@example.org");
    email(&one("a \"b\" \\ # c"), "a \"b\" \\ # c");
    email(&[("GIT_CONFIG_COUNT", ""), one("x")[1], one("x")[2]], home);
    let parameters = |value| [("GIT_CONFIG_PARAMETERS", value)];
    email(&parameters("'user.email=old@example.org'"), "old@example.org");
    email(&parameters("'user.email'='new@example.org'"), "new@example.org");
    email(&parameters("'user.name'='x'  'user.email'='it'\\''s'\\!' it'"), "it's! it");
    email(&parameters(""), home);
    email(&[&one("count")[..], &parameters("'user.email'='after'")].concat(), "after");
    // A subsection has its own case, and may have dots.
    let branch = parameters("'branch.A.b=.description'='said'");
    assert_same(&fixture, &fixture.root, &branch, "branch.A.b=.description", "said");
    // Without a value it is true.
    let flags = parameters("'user.useConfigOnly' 'core.fileMode'= 'push.followTags'=''");
    for (key, value) in [("user.useconfigonly", "true"), ("core.filemode", "true"), ("push.followtags", "")] {
        assert_eq!(guest_says(&fixture, &fixture.root, &flags, key), value, "{key}");
    }
    // What these include is read too.
    let value = format!("'include.path'='{}'", fixture.beside("included").display());
    email(&parameters(&value), "included@example.org");
}

#[test]
fn invalid_git_config_variables_are_errors() {
    let fixture = Fixture::new();
    let count = |count| ("GIT_CONFIG_COUNT", count);
    let key = |key| ("GIT_CONFIG_KEY_0", key);
    let value = ("GIT_CONFIG_VALUE_0", "x");
    for variables in [
        &[count("x")][..],
        &[count("1")],
        &[count("1"), key("user.email")],
        &[count("1"), value],
        &[count("1"), key("email"), value],
        &[count("1"), key("user."), value],
        &[count("1"), key("user.e mail"), value],
        &[count("99999999999"), key("user.email"), value],
        &[("GIT_CONFIG_PARAMETERS", "user.email=x")],
        &[("GIT_CONFIG_PARAMETERS", "'user.email'=x")],
        &[("GIT_CONFIG_PARAMETERS", "'user.email'='x")],
        &[("GIT_CONFIG_PARAMETERS", "'user.email'x")],
        &[("GIT_CONFIG_PARAMETERS", "''")],
    ] {
        let git = std::process::Command::new("git")
            .env("HOME", fixture.home())
            .envs(variables.iter().copied())
            .args(["config", "--get", "user.email"])
            .current_dir(&fixture.root)
            .output()
            .unwrap();
        assert_eq!(git.status.code(), Some(128), "{variables:?}: {git:?}");
        let workspace = Workspace::discover(&fixture.root, with(&fixture, &fixture.root, variables)).unwrap();
        let error = workspace.repository.guest_config().unwrap_err().to_string();
        assert!(error.contains(variables[0].0), "{variables:?}: {error}");
    }
}

#[test]
fn excludes_set_by_variables_are_honored() {
    let fixture = Fixture::new();
    fixture.write("kept", "");
    fixture.write("secret.key", "");
    let excludes = fixture.beside("excludes");
    fs::write(&excludes, "*.key\n").unwrap();
    fs::write(fixture.beside("attributes"), "*.key -diff\n").unwrap();
    let config = fixture.beside("global");
    let named = format!(
        "[core]\nexcludesFile = {}\nattributesFile = {}\n",
        excludes.display(),
        fixture.beside("attributes").display()
    );
    fs::write(&config, named).unwrap();
    let excludes = excludes.to_str().unwrap();
    let parameter = format!("'core.excludesFile'='{excludes}'");
    for variables in [
        &[("GIT_CONFIG_GLOBAL", config.to_str().unwrap())][..],
        &[("GIT_CONFIG_COUNT", "1"), ("GIT_CONFIG_KEY_0", "core.excludesFile"), ("GIT_CONFIG_VALUE_0", excludes)],
        &[("GIT_CONFIG_PARAMETERS", &parameter)],
    ] {
        let workspace = Workspace::discover(&fixture.root, with(&fixture, &fixture.root, variables)).unwrap();
        assert_eq!(paths(&list(&workspace).unwrap()), ["kept"], "{variables:?}");
        assert_eq!(workspace.repository.global_excludes().unwrap(), b"*.key\n");
        let plain = fixture.workspace().repository.fingerprint().unwrap();
        assert_ne!(workspace.repository.fingerprint().unwrap(), plain, "a change of the variables is one of git's");
    }
    let global = with(&fixture, &fixture.root, &[("GIT_CONFIG_GLOBAL", config.to_str().unwrap())]);
    let workspace = Workspace::discover(&fixture.root, global).unwrap();
    assert_eq!(workspace.repository.global_attributes().unwrap(), b"*.key -diff\n");
}

#[test]
fn safe_directory_can_be_set_by_variables() {
    if !nix::unistd::geteuid().is_root() {
        skipped("only root can give a folder away");
        return;
    }
    let fixture = Fixture::new();
    std::os::unix::fs::chown(&fixture.root, Some(12345), None).unwrap();
    let root = fixture.root.to_str().unwrap();
    fs::write(fixture.beside("global"), format!("[safe]\ndirectory = {root}\n")).unwrap();
    let parameter = format!("'safe.directory'='{root}'");
    for variables in [
        &[("GIT_CONFIG_GLOBAL", fixture.beside("global").to_str().unwrap())][..],
        &[("GIT_CONFIG_SYSTEM", fixture.beside("global").to_str().unwrap())],
        &[("GIT_CONFIG_COUNT", "1"), ("GIT_CONFIG_KEY_0", "safe.directory"), ("GIT_CONFIG_VALUE_0", root)],
        &[("GIT_CONFIG_PARAMETERS", &parameter)],
    ] {
        Workspace::discover(&fixture.root, with(&fixture, &fixture.root, variables)).unwrap();
    }
    assert!(Workspace::discover(&fixture.root, with(&fixture, &fixture.root, &[])).is_err());
}

/// A home with a file to include, and what `condition` in `~/.gitconfig` makes of it in `folder`.
#[track_caller]
fn assert_condition(fixture: &Fixture, folder: &Path, condition: &str, holds: bool) {
    let config = format!("[user]\nemail = home@example.org\n[includeIf \"{condition}\"]\npath = work\n");
    fs::write(fixture.home().join(".gitconfig"), config).unwrap();
    fs::write(fixture.home().join("work"), "[user]\nemail = work@example.org\n").unwrap();
    let expected = if holds { "work@example.org" } else { "home@example.org" };
    let git = git_says(fixture, folder, &[], "user.email");
    assert_eq!(git, expected, "git itself, {condition}");
    assert_eq!(guest_says(fixture, folder, &[], "user.email"), git, "{condition} in {folder:?}");
}

#[test]
fn hasconfig_conditions_match_as_in_git() {
    let fixture = Fixture::new();
    fixture.git(&["remote", "add", "origin", "git@github.com:acme/tools.git"]);
    fixture.git(&["remote", "add", "mirror", "https://example.org/acme/x/y.git"]);
    for (pattern, holds) in [
        ("git@github.com:acme/**", true),
        ("git@github.com:acme/*", true),
        ("git@github.com:*/**", true),
        ("git@github.com:*", false),
        ("git@github.com:acme/", false),
        ("git@*:acme/tools.git", true),
        ("https://example.org/acme/**", true),
        ("https://example.org/**", true),
        ("https://example.org/*/*", false),
        ("HTTPS://example.org/**", false),
        ("**", true),
        ("ssh://**", false),
    ] {
        assert_condition(&fixture, &fixture.root, &format!("hasconfig:remote.*.url:{pattern}"), holds);
    }
    assert_condition(&fixture, &fixture.root, "hasconfig:remote.*.pushurl:**", false);
    // Names of sections and keys have no case.
    let config = "[INCLUDEIF \"hasconfig:remote.*.url:git@github.com:acme/**\"]\nPATH = work\n";
    fs::write(fixture.home().join(".gitconfig"), config).unwrap();
    assert_same(&fixture, &fixture.root, &[], "user.email", "work@example.org");
    // Wherever the URL is, and wherever the condition: here both in included files.
    let fixture = Fixture::new();
    let include = |name: &str| format!("[include]\npath = {}\n", fixture.beside(name).display());
    fs::write(fixture.beside("remotes"), "[remote \"far\"]\nurl = git@host:team/x\n").unwrap();
    let condition = format!(
        "[includeIf \"hasconfig:remote.*.url:git@host:team/**\"]\npath = {}\n",
        fixture.beside("identity").display()
    );
    fs::write(fixture.beside("conditions"), condition).unwrap();
    fs::write(fixture.beside("identity"), "[user]\nemail = team@example.org\n").unwrap();
    fs::write(fixture.home().join(".gitconfig"), include("conditions") + &include("remotes")).unwrap();
    assert_same(&fixture, &fixture.root, &[], "user.email", "team@example.org");
    let url = [("GIT_CONFIG_PARAMETERS", "'remote.here.url'='git@host:team/y'")];
    fs::write(fixture.home().join(".gitconfig"), include("conditions")).unwrap();
    assert_same(&fixture, &fixture.root, &url, "user.email", "team@example.org");
}

#[test]
fn gitdir_conditions_match_through_symlinks() {
    let fixture = Fixture::new();
    let shortcut = fixture.beside("shortcut");
    symlink(fixture.root.parent().unwrap(), &shortcut).unwrap();
    let (real, linked) = (fixture.root.clone(), shortcut.join("repo"));
    let inside = linked.join("sub");
    fs::create_dir(fixture.root.join("sub")).unwrap();
    let shortcut = shortcut.display();
    let parent = fixture.root.parent().unwrap().display();
    for (folder, condition, holds) in [
        (&linked, format!("gitdir:{shortcut}/"), true),
        (&linked, format!("gitdir:{shortcut}/repo/.git"), true),
        (&linked, format!("gitdir/i:{shortcut}/REPO/"), true),
        (&linked, format!("gitdir:{parent}/"), true),
        (&linked, "gitdir:shortcut/".into(), true),
        (&linked, "gitdir:shortcut/*/.git".into(), true),
        (&linked, "gitdir:SHORTCUT/".into(), false),
        (&real, format!("gitdir:{shortcut}/"), false),
        (&real, format!("gitdir:{parent}/repo/"), true),
        (&real, "gitdir:repo/".into(), true),
        (&real, "gitdir:rep/".into(), false),
        // git itself knows the name by which one came to the root only.
        (&inside, format!("gitdir:{shortcut}/"), false),
    ] {
        assert_condition(&fixture, folder, &condition, holds);
    }
    // A repository below a home that is a link, and one below a link in it.
    let home = fixture.home();
    let place = home.join("projects");
    fs::create_dir(&place).unwrap();
    fixture.git_in(&place, &["init", "-q"]);
    for pattern in ["~/projects/", "./projects/", "~/projects/.git"] {
        fs::write(home.join(".gitconfig"), format!("[includeIf \"gitdir:{pattern}\"]\npath = identity\n")).unwrap();
        fs::write(home.join("identity"), "[user]\nemail = work@example.org\n").unwrap();
        assert_same(&fixture, &place, &[], "user.email", "work@example.org");
    }
}

#[test]
fn gitdir_condition_matches_both_names_of_symlinked_git_dir() {
    let fixture = Fixture::new();
    let store = fixture.beside("store");
    fs::rename(fixture.root.join(".git"), &store).unwrap();
    symlink(&store, fixture.root.join(".git")).unwrap();
    let fixture = fixture.trusting();
    let root = fixture.root.display();
    assert_condition(&fixture, &fixture.root, &format!("gitdir:{root}/"), true);
    assert_condition(&fixture, &fixture.root, &format!("gitdir:{}", store.display()), true);
}

#[test]
fn home_that_is_a_symlink_is_resolved() {
    let fixture = Fixture::new();
    let link = fixture.beside("linked-home");
    symlink(fixture.home(), &link).unwrap();
    let work = fixture.home().join("work");
    fs::create_dir(&work).unwrap();
    fixture.git_in(&work, &["init", "-q"]);
    fs::write(fixture.home().join(".gitconfig"), "[includeIf \"gitdir:~/work/\"]\npath = ~/identity\n").unwrap();
    fs::write(fixture.home().join("identity"), "[user]\nemail = work@example.org\n").unwrap();
    let host = Host { home: Some(link), ..with(&fixture, &work, &[]) };
    let config = Workspace::discover(&work, host).unwrap().repository.guest_config().unwrap();
    assert!(String::from_utf8(config).unwrap().contains("work@example.org"));
}

#[test]
fn endless_includes_are_an_error() {
    let fixture = Fixture::new();
    // Each file includes the next a dozen times.
    for number in 0..9 {
        let include = format!("[include]\npath = f{}\n", number + 1);
        fixture.write(format!(".git/f{number}"), include.repeat(12));
    }
    fixture.write(".git/f9", "");
    fixture.git(&["config", "include.path", "f0"]);
    let refused = || fixture.workspace().repository.guest_config().unwrap_err().to_string();
    assert!(refused().contains("includes too many files"), "{}", refused());
    // A file that includes itself.
    fixture.write(".git/f0", "[include]\npath = f0\n");
    assert!(refused().contains("too deep"), "{}", refused());
}

/// A section of four bytes takes more than a thousand once it is read.
#[test]
fn config_size_limit_covers_all_includes() {
    let fixture = Fixture::new();
    let config = fs::read_to_string(fixture.root.join(".git/config")).unwrap();
    let refused = || fixture.workspace().repository.guest_config().unwrap_err().to_string();
    let include = |name: &str| format!("[include]\npath = {name}\n");
    // One file that is included many times, and many that are each included once.
    fixture.write(".git/big", "[a]\n".repeat(2_000));
    fixture.write(".git/config", format!("{config}{}", include("big").repeat(20)));
    assert!(refused().contains("longer than 1048576 bytes"), "{}", refused());
    fixture.write(".git/big", "[a]\n".repeat(40_000));
    fixture.write(".git/config", format!("{config}{}", include("big")));
    assert!(refused().contains("longer than 1048576 bytes"), "{}", refused());
    for number in 0..8 {
        fixture.write(format!(".git/b{number}"), "#".repeat(200_000));
    }
    let all: String = (0..8).map(|number| include(&format!("b{number}"))).collect();
    fixture.write(".git/config", format!("{config}{all}"));
    assert!(refused().contains("longer than 1048576 bytes"), "{}", refused());
    // What conditions are asked of is read for itself.
    fixture.write(".git/config", format!("{config}[includeIf \"hasconfig:remote.*.url:x\"]\npath = b0\n{all}"));
    assert!(refused().contains("longer than 1048576 bytes"), "{}", refused());
    let three: String = (0..3).map(|number| include(&format!("b{number}"))).collect();
    fixture.write(".git/config", format!("{config}{three}"));
    fixture.workspace().repository.guest_config().unwrap();
}

/// For git and for gix, each `**/` doubles the time.
#[test]
fn exponential_patterns_are_refused_or_matched_quickly() {
    let fixture = Fixture::new();
    fixture.git(&["symbolic-ref", "HEAD", &format!("refs/heads{}", "/a".repeat(60))]);
    let config = fs::read_to_string(fixture.root.join(".git/config")).unwrap();
    let pattern = |count| format!("{}b", "**/a/".repeat(count));
    let include = |count| format!("{config}[includeIf \"onbranch:{}\"]\npath = x\n", pattern(count));
    fixture.write(".git/config", include(8));
    fixture.workspace().repository.guest_config().unwrap();
    fixture.write(".git/config", include(24));
    let error = fixture.workspace().repository.guest_config().unwrap_err().to_string();
    assert!(error.contains("`onbranch:**/a/") && error.contains("more than 8 `**`"), "{error}");

    fixture.write(".git/config", config.as_str());
    fixture.write(".gitignore", format!("{}\n", pattern(40)));
    fixture.write("a/".repeat(60) + "c", "");
    let begin = std::time::Instant::now();
    assert_eq!(fixture.listing().entries.len(), 2);
    assert!(begin.elapsed().as_secs() < 30);
}
