//! Configuration: what the files, variables and options say holds in the VM, and what of this
//! machine reaches it.

use std::fs;

use banger_tests::{Home, Output, Repository};
use serde_json::Value;

/// A certificate authority that nobody else trusts.
const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----
MIIBkDCCATegAwIBAgIUWOjJOkT/ay9v9o6fKcHKbK855WMwCgYIKoZIzj0EAwIw
HTEbMBkGA1UEAwwSQSBjb21wYW55J3Mgb3duIENBMCAXDTI2MTEyNTA5NTkyOFoY
DzIxMjYxMTAxMDk1OTI4WjAdMRswGQYDVQQDDBJBIGNvbXBhbnkncyBvd24gQ0Ew
WTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAAS/f+ubQIn+E/TtFRJkLVEnPUfP+vjd
6ewzN0CRmAMcuNkVRFRWZxiavfFQD5NiCz2x+fSmbzw9cNnpuLwVFZuqo1MwUTAd
BgNVHQ4EFgQUHb4Zs/cvpGxTPq1IgKTLD2BfON0wHwYDVR0jBBgwFoAUHb4Zs/cv
pGxTPq1IgKTLD2BfON0wDwYDVR0TAQH/BAUwAwEB/zAKBggqhkjOPQQDAgNHADBE
AiARgNx8htFT16p3NQUeUp9EV8u/7t0T+lRX3C7oRiqGwQIge3zOb0abVjDG3Bo6
2LooO4m98RmaENRvn/WtgKy/NSM=
-----END CERTIFICATE-----
";

fn with(repository: &Repository<'_>, variables: &[(&str, &str)], arguments: &[&str]) -> Output {
    repository.banger().envs(variables.iter().copied()).args(arguments).output().expect("banger runs").into()
}

/// `banger <arguments> --json`, as JSON.
fn json(repository: &Repository<'_>, arguments: &[&str]) -> Value {
    let output = with(repository, &[], &[arguments, &["--json"]].concat());
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

#[test]
fn config_can_be_shown_changed_and_validated() {
    let home = Home::new();
    let repository = home.repository("r");
    let file = home.path().join(".config/banger/config.toml");
    repository.run(["config", "set", "cpus", "2"]).ok();
    repository.run(["config", "set", "--repo", "memory", "768M"]).ok();
    repository.run(["config", "set", "env.NAME", "-x", "--repo"]).ok();
    assert_eq!(fs::read_to_string(&file).unwrap(), "cpus = 2\n");
    assert_eq!(repository.run(["config", "get", "env.NAME"]).ok().text(), "-x\n");
    assert_eq!(json(&repository, &["config", "get", "memory"]), "768M");

    let all = json(&repository, &["config"]);
    let setting = |key: &str| all["settings"].as_array().unwrap().iter().find(|setting| setting["key"] == key).unwrap();
    assert_eq!((&setting("cpus")["value"], &setting("cpus")["origin"]), (&2.into(), &"user".into()));
    assert_eq!(setting("cpus")["source"], file.to_str().unwrap());
    assert_eq!((&setting("memory")["value"], &setting("memory")["origin"]), (&"768M".into(), &"repo".into()));
    assert_eq!((&setting("disk")["value"], &setting("disk")["origin"]), (&"32G".into(), &"default".into()));

    // Outside of a repository there is the user's file alone.
    let outside: Output = repository.banger().current_dir(home.path()).arg("config").output().unwrap().into();
    assert!(outside.ok().text().lines().any(|line| line.starts_with("cpus ") && line.contains(" user (")));

    repository.run(["config", "unset", "cpus"]).ok();
    assert_eq!(fs::read_to_string(&file).unwrap(), "");
    repository.write("banger.toml", "[env]\nA = '1'\n\n[enw]\nB = '2'\n");
    let wrong = json(&repository, &["config"]);
    assert_eq!((&wrong["kind"], &wrong["exit_code"]), (&"config".into(), &125.into()));
    assert!(wrong["message"].as_str().unwrap().ends_with("banger.toml:4:2: there is no key `enw`"), "{wrong}");
    assert_eq!(wrong["hints"][0], "did you mean `env`?");
    // The command does not run, and no VM is made for it.
    repository.run(["--", "true"]).refused(&["enw", "[enw]"]);
    assert!(home.vms().is_empty());
}

#[test]
fn config_files_take_effect_in_the_vm() {
    let home = Home::new();
    let repository = home.repository("r");
    home.configure(
        "cpus = 1\ndisk = \"3G\"\nenv = { A = \"user\", B = \"user\" }\n[alias]\nsay = [\"--\", \"printenv\"]\n",
    );
    repository
        .write("banger.toml", "memory = \"700M\"\nenv_from_host = [\"HANDED\"]\n[env]\nB = \"$HOME\"\nC = \"repo\"\n");
    let asked = "nproc; df -BG --output=size /root/repo | tail -1; free -m | awk '/Mem/ { print $2 }'; \
        echo $A $B $C ${HANDED:-nothing}";
    let run = with(&repository, &[("HANDED", "secret")], &["-e", "C=option", "--", "sh", "-c", asked]).ok();
    let answers: Vec<String> = run.text().lines().map(|line| line.trim().to_owned()).collect();
    assert_eq!((answers[0].as_str(), answers[1].as_str()), ("1", "3G"));
    assert!((500..700).contains(&answers[2].parse::<u32>().unwrap()), "{answers:?}");
    assert_eq!(answers[3], "user $HOME option nothing");
    assert!(run.stderr.contains("`env_from_host") && run.stderr.contains("banger trust"), "{}", run.stderr);

    repository.run(["trust"]).ok();
    let say = |arguments: &[&str]| with(&repository, &[("HANDED", "secret")], arguments);
    let trusted = say(&["say", "HANDED"]).ok();
    assert_eq!((trusted.text().as_str(), trusted.stderr.contains("banger trust")), ("secret\n", false));
    assert_eq!(say(&["-e", "HANDED=other", "say", "HANDED"]).ok().text(), "other\n");
    repository.write("banger.toml", "env_from_host = [\"HANDED\", \"PATH\"]\n");
    let changed = say(&["say", "HANDED"]);
    assert_eq!((changed.status, changed.text().as_str()), (1, ""));
    assert!(changed.stderr.contains("banger trust"), "{}", changed.stderr);
    // What a VM cannot become is said.
    let other = with(&repository, &[("BANGER_DISK", "2G"), ("BANGER_IMAGE", "another")], &["--", "true"]).ok();
    assert!(other.stderr.contains("disk `2G`") && other.stderr.contains("keeps `3G`"), "{}", other.stderr);
    assert!(other.stderr.contains("image `another`"), "{}", other.stderr);
    let unknown = repository.run(["--image", "debian-bookworm-minimul", "--", "echo", "run"]);
    assert_eq!((unknown.status, unknown.text().as_str()), (125, ""));
    assert!(unknown.stderr.contains("did you mean `debian-bookworm-minimal`"), "{}", unknown.stderr);
}

#[test]
fn host_environment_reaches_guest_commands() {
    let home = Home::new();
    let repository = home.repository("r");
    fs::write(home.path().join("ca.pem"), CERTIFICATE).unwrap();
    // What the guest trusts by itself is in a bundle of this machine too.
    let bundle = fs::read("/etc/ssl/certs/ca-certificates.crt").unwrap_or_else(|_| CERTIFICATE.into());
    fs::write(home.path().join("bundle.pem"), bundle).unwrap();
    home.configure("ca_certificates = [\"~/ca.pem\", \"~/bundle.pem\"]\n");
    let here = [
        ("TZ", "Asia/Tokyo"),
        ("LANG", "de_DE.UTF-8"),
        ("LC_ALL", "de_DE.UTF-8"),
        ("http_proxy", "http://127.0.0.1:3128"),
        ("HTTPS_PROXY", "http://me:secret@proxy.example:1"),
        ("no_proxy", "localhost"),
    ];
    let asked = "date +%Z; perl -e 1; locale charmap; env | grep -i _proxy | sort; \
        git -c user.useConfigOnly=true commit -q --allow-empty -m x; git log -1 --format=%ae; \
        openssl verify -CApath /etc/ssl/certs /tmp/ca.pem; tail -n 5 $SSL_CERT_FILE | grep -c END; \
        grep -c \"$(sed -n 2p /tmp/ca.pem)\" $NODE_EXTRA_CA_CERTS; ls -l $REQUESTS_CA_BUNDLE";
    let asked = format!("cat >/tmp/ca.pem <<'END'\n{CERTIFICATE}END\nexec 2>&1; {asked}");
    let run = with(&repository, &here, &["--", "sh", "-c", &asked]).ok();
    let expected = "JST\nUTF-8\n\
        HTTPS_PROXY=http://proxy.example:1\nHTTP_PROXY=http://10.0.2.2:3128\nNO_PROXY=localhost\n\
        http_proxy=http://10.0.2.2:3128\nhttps_proxy=http://proxy.example:1\nno_proxy=localhost\n\
        t@example.com\n/tmp/ca.pem: OK\n1\n1\n";
    assert!(run.text().starts_with(expected), "{}\n{}", run.text(), run.stderr);
    assert!(run.stderr.contains("-e https_proxy") && !run.stderr.contains("secret"), "{}", run.stderr);

    // The command line has the last word; and nothing is installed again.
    let asked = "echo $TZ $LANG $https_proxy";
    let arguments = ["-e", "TZ=UTC", "-e", "LANG=C", "-e", "https_proxy=own", "--", "sh", "-c", asked];
    let again = with(&repository, &here, &arguments).ok();
    assert_eq!((again.text().as_str(), again.stderr.contains("ca_certificates")), ("UTC C own\n", false));

    home.configure("");
    let gone = "ls /usr/local/share/ca-certificates /etc/banger; find /etc/ssl/certs -xtype l; echo ${SSL_CERT_FILE:-unset}; \
        openssl verify -CApath /etc/ssl/certs /tmp/ca.pem >/dev/null 2>&1 || echo distrusted; \
        for own in /usr/share/ca-certificates/mozilla/*; do break; done; openssl verify -CApath /etc/ssl/certs $own | grep -c OK";
    let folders = "/etc/banger:\n\n/usr/local/share/ca-certificates:\n";
    assert_eq!(repository.sh(gone).ok().text(), format!("{folders}unset\ndistrusted\n1\n"));
}
