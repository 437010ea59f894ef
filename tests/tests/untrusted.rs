//! What the `banger.toml` of a stranger's repository gets, and what `banger trust` changes. No VM
//! is started.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;

use banger_tests::registry::Layout;
use banger_tests::{Home, Output, Repository};

/// A registry that gives nothing without a login, and keeps what it was shown.
struct Closed {
    address: String,
    shown: Arc<Mutex<Vec<Option<String>>>>,
}

impl Closed {
    fn new() -> Closed {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let shown: Arc<Mutex<Vec<_>>> = Arc::default();
        let seen = Arc::clone(&shown);
        // It ends with the test's process.
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let lines = BufReader::new(&stream).lines().map_while(Result::ok).take_while(|line| !line.is_empty());
                let head: Vec<String> = lines.collect();
                // Speaking TLS is how banger begins with a registry.
                if !head.first().is_some_and(|first| first.starts_with("GET /v2/")) {
                    continue;
                }
                let shown = head.iter().find_map(|line| {
                    let (name, value) = line.split_once(": ")?;
                    name.eq_ignore_ascii_case("authorization").then(|| value.to_owned())
                });
                let status = if shown.is_some() { "404 Not Found" } else { "401 Unauthorized" };
                seen.lock().unwrap().push(shown);
                let challenge = "www-authenticate: Basic realm=\"r\"\r\ncontent-length: 0\r\nconnection: close";
                let _ = (&stream).write_all(format!("HTTP/1.1 {status}\r\n{challenge}\r\n\r\n").as_bytes());
            }
        });
        Closed { address, shown }
    }

    /// What it was shown since it was last asked, request by request.
    fn shown(&self) -> Vec<Option<String>> {
        std::mem::take(&mut self.shown.lock().unwrap())
    }
}

fn log_in(home: &Home, address: &str) {
    let folder = home.path().join(".docker");
    fs::create_dir_all(&folder).unwrap();
    let auths = format!(r#"{{"auths": {{"{address}": {{"auth": "dXNlcjpzZWNyZXQ="}}}}}}"#);
    fs::write(folder.join("config.json"), auths).unwrap();
}

/// A run that comes to nothing.
#[track_caller]
fn refused(repository: &Repository<'_>) -> Output {
    let output = repository.run(["--", "true"]);
    assert_eq!((output.status, output.text().as_str()), (125, ""), "{output:?}");
    assert!(repository.home.vms().is_empty());
    output
}

#[test]
fn untrusted_config_pulls_image_without_logins() {
    let home = Home::with_own_images();
    let registry = Closed::new();
    log_in(&home, &registry.address);
    let repository = home.repository("r");
    repository.write("banger.toml", format!("image = \"{}/private/img:1\"\n", registry.address));
    for arguments in [&["--", "true"][..], &["--rm", "--", "true"], &["vm", "run", "--rm", ".", "--", "true"]] {
        let output = Output::from(repository.banger().args(arguments).output().unwrap());
        assert_eq!(output.status, 125, "{output:?}");
        for part in ["wants a user name", "your logins at registries were not used", "banger trust"] {
            assert!(output.stderr.contains(part), "{arguments:?}: {}", output.stderr);
        }
        let shown = registry.shown();
        assert!(!shown.is_empty() && shown.iter().all(Option::is_none), "{shown:?}");
    }
    let trusted = repository.run(["trust", "--json"]).ok().document();
    assert_eq!(trusted["keys"], serde_json::json!(["image"]), "{trusted}");
    let output = refused(&repository);
    assert!(!output.stderr.contains("banger trust"), "{}", output.stderr);
    assert!(registry.shown().contains(&Some("Basic dXNlcjpzZWNyZXQ=".to_owned())));
    // Another content is another file; and what the user names is the user's word.
    repository.write("banger.toml", format!("image = \"{}/private/img:2\"\n", registry.address));
    refused(&repository);
    assert!(registry.shown().iter().all(Option::is_none));
    let image = format!("{}/private/img:2", registry.address);
    assert_eq!(repository.run(["--image", &image, "--", "true"]).status, 125);
    assert!(registry.shown().iter().any(Option::is_some));
}

#[test]
fn untrusted_config_cannot_name_users_own_image() {
    let home = Home::with_own_images();
    let layout = Layout::new(home.path().join("layout"));
    fs::write(home.path().join("secret"), "secret").unwrap();
    layout.add("own");
    layout.insert("own", Path::new(&home.path().join("secret")), "/secret");
    let repository = home.repository("r");
    repository.run(["image", "pull", &layout.source("own"), "--name", "mine"]).ok();
    let folder = fs::read_link(home.data().join("images/mine")).unwrap().into_os_string().into_string().unwrap();
    for name in ["mine", &folder] {
        repository.write("banger.toml", format!("image = \"{name}\"\n"));
        let output = refused(&repository);
        assert!(output.stderr.contains("an image of your own"), "{}", output.stderr);
        assert!(output.stderr.contains("banger trust"), "{}", output.stderr);
    }
    // Files of this machine are none's to name but the user's, with trust or without.
    repository.write("banger.toml", format!("image = \"{}\"\n", layout.source("own")));
    assert!(refused(&repository).stderr.contains("may not name files of this machine"));
    repository.write("banger.toml", "image = \"../../etc/shadow\"\n");
    assert!(refused(&repository).stderr.contains("may not name files of this machine"));
}

#[test]
fn untrusted_config_raises_no_limit_and_says_so() {
    let home = Home::new();
    let repository = home.repository("r");
    home.configure("cpus = 1\nmemory = \"256M\"\nidle_timeout = \"10m\"\n");
    repository.write("banger.toml", "cpus = 2\nmemory = \"200M\"\nidle_timeout = 0\n");
    let setting = |key: &str| {
        let overview = repository.run(["config", "--json"]).ok().document();
        let settings = overview["settings"].as_array().unwrap();
        settings.iter().find(|setting| setting["key"] == key).unwrap().clone()
    };
    let cpus = setting("cpus");
    assert_eq!((&cpus["value"], &cpus["origin"]), (&1.into(), &"user".into()), "{cpus}");
    assert_eq!(cpus["limited"], serde_json::json!({"asked": 2, "limit": 1, "by": "user", "with_trust": 2}));
    let memory = setting("memory");
    assert_eq!((&memory["value"], memory["limited"].is_null()), (&"200M".into(), true), "{memory}");
    assert_eq!(setting("idle_timeout")["value"], "10m");
    let text = repository.run(["config"]).ok();
    assert!(text.text().contains("limited by your own configuration: `banger.toml` asks for 2"), "{}", text.text());
    assert!(!text.stderr.contains("banger trust"), "{}", text.stderr);
    let trusted = repository.run(["trust", "--json"]).ok().document();
    assert_eq!(trusted["keys"], serde_json::json!(["cpus", "idle_timeout"]), "{trusted}");
    let cpus = setting("cpus");
    assert_eq!((&cpus["value"], cpus["limited"].is_null()), (&2.into(), true), "{cpus}");
    assert_eq!(setting("idle_timeout")["value"], "0");
}
