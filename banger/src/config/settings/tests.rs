use std::fs;
use std::time::Duration;

use banger_vmm::{NetMode, RateLimits};

use super::*;
use crate::config::defaults::default_cpus;

/// The settings of who has these files, variables and options.
struct Given {
    folder: tempfile::TempDir,
    variables: BTreeMap<&'static str, &'static str>,
    overrides: Overrides,
}

impl Given {
    fn new(user: &str, repo: &str) -> Given {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("repo")).unwrap();
        fs::write(folder.path().join("config.toml"), user).unwrap();
        fs::write(folder.path().join("repo/banger.toml"), repo).unwrap();
        Given { folder, variables: BTreeMap::new(), overrides: Overrides::default() }
    }

    fn root(&self) -> PathBuf {
        self.folder.path().join("repo")
    }

    fn load(&self) -> Result<Settings, CommandError> {
        let (user, root) = (self.folder.path().join("config.toml"), self.root());
        let variable = |name: &str| self.variables.get(name).map(OsString::from);
        let sources = Sources { user: Some(&user), root: Some(&root), data: self.folder.path(), variable: &variable };
        Settings::load(&sources, &self.overrides)
    }

    fn trust(&self) {
        let text = fs::read_to_string(self.root().join("banger.toml")).unwrap();
        TrustStore::new(self.folder.path()).trust(&self.root(), Some(&text), None, &Default::default()).unwrap();
    }
}

fn answer(settings: &Settings, key: &str) -> (String, Origin) {
    let answer = settings.all().into_iter().find(|answer| answer.key == key).unwrap();
    (answer.value.map(|value| value.to_string()).unwrap_or_default(), answer.origin)
}

#[test]
fn higher_precedence_source_wins() {
    let mut given = Given::new("cpus = 2\n", "cpus = 1\n");
    assert_eq!(answer(&given.load().unwrap(), "cpus"), ("1".into(), Origin::Repo));
    given.variables.insert("BANGER_CPUS", "3");
    assert_eq!(answer(&given.load().unwrap(), "cpus"), ("3".into(), Origin::Environment));
    given.overrides.cpus = Some(4);
    let settings = given.load().unwrap();
    assert_eq!((answer(&settings, "cpus"), settings.cpus()), (("4".into(), Origin::Flag), Some(4)));
    let settings = Given::new("cpus = 1\nmemory = \"2G\"\n", "").load().unwrap();
    assert_eq!((settings.cpus(), settings.memory_mib(), settings.disk_bytes()), (Some(1), Some(2048), None));
    assert_eq!(answer(&settings, "disk"), ("32G".into(), Origin::Default));
    assert_eq!((settings.net(), settings.ready(), settings.history()), (None, None, None));
    assert_eq!(settings.idle_timeout(), Duration::from_secs(1800));
}

#[test]
fn rate_limits_are_in_bytes_and_absent_ones_are_none() {
    let none = Given::new("", "").load().unwrap().rate_limits();
    assert!(none.is_unlimited(), "{none:?}");
    let mut given = Given::new("disk_iops = 500\ndisk_bandwidth = \"64M\"\n", "net_bandwidth = 2\n");
    let limits = RateLimits { disk_iops: 500, disk_bandwidth: 64 << 20, net_bandwidth: 2 << 20 };
    assert_eq!(given.load().unwrap().rate_limits(), limits);
    given.variables.insert("BANGER_NET_BANDWIDTH", "1T");
    assert_eq!(given.load().unwrap().rate_limits(), RateLimits { net_bandwidth: 1 << 40, ..limits });
    // What the user has limited, an untrusted repository does not set free.
    let mut given = Given::new("disk_bandwidth = \"64M\"\n", "disk_bandwidth = \"1T\"\n");
    assert_eq!(given.load().unwrap().rate_limits().disk_bandwidth, 64 << 20);
    given.trust();
    assert_eq!(given.load().unwrap().rate_limits().disk_bandwidth, 1 << 40);
    for (key, value) in [
        ("disk_iops", "0"),
        ("disk_iops", "-1"),
        ("disk_iops", "1000001"),
        ("disk_bandwidth", "\"0\""),
        ("net_bandwidth", "-5"),
    ] {
        let error = Given::new("", &format!("{key} = {value}\n")).load().unwrap_err();
        assert!(error.message.contains("banger.toml:1:"), "{key} = {value}: {error:?}");
    }
    given.variables.insert("BANGER_DISK_BANDWIDTH", "99999999999999999999T");
    let error = given.load().unwrap_err();
    assert_eq!(error.hints, ["it may be a size per second from `1M` to `1T`, such as `50M`"]);
}

#[test]
fn default_image_is_used_unless_another_is_set() {
    let settings = Given::new("default_image_name = \"mine\"\n", "").load().unwrap();
    assert_eq!((settings.image(), settings.wanted_image()), ("mine", None));
    let settings = Given::new("default_image_name = \"mine\"\n", "image = \"ours\"\n").load().unwrap();
    assert_eq!((settings.image(), settings.wanted_image()), ("ours", Some("ours")));
}

#[test]
fn env_tables_of_both_files_are_merged() {
    let settings = Given::new("env = { A = \"1\", B = \"1\" }\n", "[env]\nB = \"$HOME\"\n").load().unwrap();
    assert_eq!(settings.env().collect::<Vec<_>>(), [("A", "1"), ("B", "$HOME")]);
    assert_eq!(answer(&settings, "env.A"), ("1".into(), Origin::User));
    assert_eq!(answer(&settings, "env.B"), ("$HOME".into(), Origin::Repo));
}

#[test]
fn host_access_settings_need_trust_in_the_exact_file() {
    let given = Given::new("net = \"none\"\n", "net = \"user\"\nenv_from_host = [\"TOKEN\"]\ncpus = 1\n");
    let settings = given.load().unwrap();
    assert_eq!((settings.net(), settings.env_from_host().len(), settings.cpus()), (Some(NetMode::None), 0, Some(1)));
    let [warning] = &settings.warnings[..] else { panic!("{:?}", settings.warnings) };
    for part in ["`env_from_host = [\"TOKEN\"]`", "`net = user`", "banger trust"] {
        assert!(warning.contains(part), "{warning}");
    }
    given.trust();
    let settings = given.load().unwrap();
    assert_eq!((settings.net(), settings.env_from_host()), (Some(NetMode::User), &["TOKEN".to_owned()][..]));
    assert!(settings.warnings.is_empty());
    fs::write(given.root().join("banger.toml"), "env_from_host = [\"TOKEN\", \"OTHER\"]\n").unwrap();
    assert!(given.load().unwrap().env_from_host().is_empty());
    let ports = |text: &str| Given::new("", text).load().unwrap();
    assert!(!ports("ports = \"auto\"\n").ports_by_themselves() && ports("ports = \"none\"\n").warnings.is_empty());
    assert!(Given::new("ports = \"auto\"\n", "").load().unwrap().ports_by_themselves());
    // Whoever has no word on it has nothing against it; and the user's own file needs no trust.
    let settings = Given::new("env_from_host = [\"X\"]\n", "net = \"user\"\n").load().unwrap();
    assert_eq!((settings.warnings.len(), settings.env_from_host().len()), (0, 1));
}

#[test]
fn trusted_repository_config_raises_user_limits() {
    let user = "cpus = 1\nmemory = \"1G\"\nidle_timeout = \"10m\"\n";
    let repo = "cpus = 200\nmemory = \"512M\"\ndisk = \"64G\"\nidle_timeout = 0\n";
    let has = default_cpus();
    let mut given = Given::new(user, repo);
    let settings = given.load().unwrap();
    assert_eq!((answer(&settings, "cpus"), settings.cpus()), (("1".into(), Origin::User), Some(1)));
    assert_eq!(answer(&settings, "memory"), ("512M".into(), Origin::Repo));
    assert_eq!(answer(&settings, "disk"), ("64G".into(), Origin::Repo));
    assert_eq!(settings.idle_timeout(), Duration::from_secs(600));
    let limited = |settings: &Settings| {
        let answers = settings.all().into_iter();
        answers.filter_map(|answer| Some((answer.key, answer.limited?.asked.to_string()))).collect::<Vec<_>>()
    };
    assert_eq!(limited(&settings), [("cpus".into(), "200".into()), ("idle_timeout".into(), "0".into())]);
    let notes = settings.limit_notes();
    for part in ["`cpus` is 1", "your own configuration", "asks for 200"] {
        assert!(notes[0].contains(part), "{notes:?}");
    }
    assert!(notes[1].contains("which needs `banger trust`"), "{notes:?}");
    // Nothing of it is said with each command.
    assert_eq!((notes.len(), settings.warnings.len()), (2, 0));
    // An option is the user's word.
    given.overrides.cpus = Some(3);
    let settings = given.load().unwrap();
    assert_eq!((settings.cpus(), limited(&settings).len(), settings.limit_notes().len()), (Some(3), 1, 1));
    given.overrides.cpus = None;
    given.trust();
    let settings = given.load().unwrap();
    // No file asks for more than the machine has.
    assert_eq!((settings.cpus(), settings.idle_timeout()), (Some(has), Duration::ZERO));
    assert_eq!(limited(&settings), [("cpus".into(), "200".into())]);
    assert!(!settings.limit_notes()[0].contains("trust"), "{:?}", settings.limit_notes());
    // Without a word of the user's own.
    let settings = Given::new("", "idle_timeout = 0\ncpus = 255\n").load().unwrap();
    assert_eq!(settings.idle_timeout(), Duration::from_secs(24 * 3600));
    assert_eq!(settings.cpus(), Some(default_cpus()));
}

#[test]
fn image_from_untrusted_config_is_accessed_anonymously() {
    let mut given = Given::new("", "image = \"x.example/team/app:1\"\n");
    assert_eq!(given.load().unwrap().image_access(), ImageAccess::Anonymous);
    given.variables.insert("BANGER_IMAGE", "x.example/team/app:1");
    assert_eq!(given.load().unwrap().image_access(), ImageAccess::User);
    given.variables.clear();
    given.trust();
    assert_eq!(given.load().unwrap().image_access(), ImageAccess::User);
    assert_eq!(Given::new("image = \"a\"\n", "").load().unwrap().image_access(), ImageAccess::User);
    assert_eq!(Given::new("", "cpus = 1\n").load().unwrap().image_access(), ImageAccess::User);
}

#[test]
fn key_of_an_earlier_version_is_unknown_in_a_file_and_ignored_as_a_variable() {
    let error = Given::new("bridge_name = \"br0\"\n", "").load().unwrap_err();
    assert!(error.kind == ErrorKind::Config && error.message.contains("bridge_name"), "{error:?}");
    let mut given = Given::new("", "");
    given.variables.insert("BANGER_BRIDGE_NAME", "br0");
    assert!(given.load().unwrap().warnings.is_empty());
}

#[test]
fn catalog_url_is_a_url_or_path_in_the_user_config() {
    let location = |text: &str| {
        let settings = Given::new(&format!("catalog_url = \"{text}\"\n"), "").load().unwrap();
        settings.catalog_url(Some(Path::new("/home/me"))).map(|location| location.to_string())
    };
    assert_eq!(location("https://x.example/c.toml").unwrap(), "https://x.example/c.toml");
    assert_eq!(location("~/c.toml").unwrap(), "/home/me/c.toml");
    assert_eq!(location("file:///srv/c.toml").unwrap(), "/srv/c.toml");
    assert!(Given::new("", "").load().unwrap().catalog_url(None).is_none());
    for (user, repo) in [("catalog_url = \"c.toml\"\n", ""), ("", "catalog_url = \"https://x.example\"\n")] {
        assert_eq!(Given::new(user, repo).load().unwrap_err().kind, ErrorKind::Config);
    }
}

#[test]
fn invalid_variable_error_names_the_variable() {
    let mut given = Given::new("", "");
    given.variables.insert("BANGER_MEMORY", "lots");
    let error = given.load().unwrap_err();
    assert_eq!((error.kind, error.message.as_str()), (ErrorKind::Usage, "the variable BANGER_MEMORY is `lots`"));
    given.variables = [("BANGER_MEMORY", ""), ("BANGER_SETUP", "[\"a\", \"b c\"]"), ("BANGER_MISE", "0")].into();
    let settings = given.load().unwrap();
    assert_eq!(
        (settings.memory_mib(), settings.setup(), settings.mise()),
        (None, &["a".to_owned(), "b c".to_owned()][..], false)
    );
}
