//! What commands in the guest get of this machine without being told: proxies, the time zone, a
//! language, an identity for git. Each is a variable, and whatever the user says of it wins.

use std::ffi::OsString;
use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;

use banger_agent::protocol::WireBytes;
use banger_vmm::{NetMode, NetPlan};

/// What curl(1) and others go by, in small letters. Some programs know only the capitals.
const PROXIES: [&str; 4] = ["http_proxy", "https_proxy", "all_proxy", "no_proxy"];
/// Who commits, where git's configuration is not to say it: git(1).
const IDENTITY: [&str; 5] =
    ["GIT_AUTHOR_NAME", "GIT_AUTHOR_EMAIL", "GIT_COMMITTER_NAME", "GIT_COMMITTER_EMAIL", "EMAIL"];

/// Variables for the guest, and what the user should know of them.
#[derive(Debug, Default)]
pub(super) struct HostEnv {
    pub(super) variables: Vec<(WireBytes, WireBytes)>,
    pub(super) warnings: Vec<String>,
}

impl HostEnv {
    /// `net` is the VM's network, `variable` this machine's environment, `etc` its `/etc`. What is
    /// in `given` already is the user's own word.
    pub(super) fn new(
        net: &NetPlan,
        variable: &dyn Fn(&str) -> Option<OsString>,
        etc: &Path,
        given: &[(WireBytes, WireBytes)],
    ) -> HostEnv {
        let mut host_env = HostEnv::default();
        // The one language that every image has, that knows all letters, and that perl does not
        // complain about: the language here may not be installed there.
        host_env.add("LANG", "C.UTF-8");
        if let Some(zone) = time_zone(variable, etc) {
            host_env.add("TZ", &zone);
        }
        for name in IDENTITY {
            if let Some(value) = text(variable, name) {
                host_env.add(name, &value);
            }
        }
        if net.mode != NetMode::None {
            host_env.add_proxies(net.host_alias, variable, given);
        }
        host_env
    }

    fn add(&mut self, name: &str, value: &str) {
        self.variables.push((name.into(), value.into()));
    }

    /// Adds the proxies that the guest can reach: `host_alias` is where it reaches this machine's
    /// loopback.
    fn add_proxies(
        &mut self,
        host_alias: Option<Ipv4Addr>,
        variable: &dyn Fn(&str) -> Option<OsString>,
        given: &[(WireBytes, WireBytes)],
    ) {
        for name in PROXIES {
            let capitals = name.to_uppercase();
            let Some(value) = text(variable, name).or_else(|| text(variable, &capitals)) else { continue };
            let value = match name {
                "no_proxy" => value,
                _ => {
                    let proxy = Proxy::split(&value);
                    let Some(for_guest) = proxy.for_guest(host_alias) else {
                        self.warnings.push(format!(
                            "`{name}` is at this machine's loopback address, which this VM cannot reach: it is left \
                             out. With `--backend qemu`, the VM can"
                        ));
                        continue;
                    };
                    let is_given = |name: &str| given.iter().any(|(other, _)| other.0 == name.as_bytes());
                    if !proxy.user.is_empty() && !is_given(name) && !is_given(&capitals) {
                        self.warnings.push(format!(
                            "the name and password in `{name}` stay here; if the VM shall have them: -e {name}"
                        ));
                    }
                    for_guest
                }
            };
            self.add(name, &value);
            self.add(&capitals, &value);
        }
    }
}

/// A variable that is set to some text.
fn text(variable: &dyn Fn(&str) -> Option<OsString>, name: &str) -> Option<String> {
    variable(name)?.into_string().ok().filter(|text| !text.is_empty())
}

/// A proxy as curl(1) understands it: `[scheme://][user[:password]@]host[:port][/]`.
struct Proxy<'a> {
    /// With its `://`.
    scheme: &'a str,
    /// With its `@`.
    user: &'a str,
    host: &'a str,
    rest: &'a str,
}

impl Proxy<'_> {
    fn split(text: &str) -> Proxy<'_> {
        let (scheme, after) = text.split_at(text.find("://").map_or(0, |at| at + 3));
        let end = after.find('/').unwrap_or(after.len());
        let (user, after) = after.split_at(after[..end].rfind('@').map_or(0, |at| at + 1));
        // The address of an IPv6 host is in brackets: RFC 3986, 3.2.2.
        let end = match after.find(']') {
            Some(bracket) if after.starts_with('[') => bracket + 1,
            _ => after.find([':', '/']).unwrap_or(after.len()),
        };
        let (host, rest) = after.split_at(end);
        Proxy { scheme, user, host, rest }
    }

    /// This proxy as a guest reaches it: without name and password, and at `host_alias` where it is
    /// on this machine's loopback. `None` for a proxy that the guest cannot reach.
    fn for_guest(&self, host_alias: Option<Ipv4Addr>) -> Option<String> {
        let host = self.host.to_ascii_lowercase();
        let is_loopback = host == "localhost"
            || host.ends_with(".localhost")
            || host.trim_matches(['[', ']']).parse().is_ok_and(|address: std::net::IpAddr| address.is_loopback());
        let host = if is_loopback { host_alias?.to_string() } else { self.host.to_owned() };
        Some(format!("{}{host}{}", self.scheme, self.rest))
    }
}

/// The time zone: what `TZ` says, else where the link `localtime` leads, else what Debian's
/// `timezone` says. A zone that only a path of this machine names is none for the guest.
fn time_zone(variable: &dyn Fn(&str) -> Option<OsString>, etc: &Path) -> Option<String> {
    // tzset(3): an empty TZ is UTC, and a colon may come first.
    if let Some(zone) = variable("TZ") {
        let zone = zone.into_string().ok()?;
        let zone = zone.strip_prefix(':').unwrap_or(&zone);
        return if zone.is_empty() { Some("UTC".to_owned()) } else { zone_name(zone) };
    }
    if let Ok(target) = fs::read_link(etc.join("localtime")) {
        return zone_name(target.to_str()?);
    }
    let zone = fs::read_to_string(etc.join("timezone")).ok()?;
    zone_name(zone.trim())
}

fn zone_name(zone: &str) -> Option<String> {
    let name = match zone.rsplit_once("zoneinfo/") {
        Some((_, name)) => ["posix/", "right/"].iter().find_map(|prefix| name.strip_prefix(prefix)).unwrap_or(name),
        None => zone,
    };
    let is_zone = |c: char| c.is_ascii_alphanumeric() || "+-_/,.:<>".contains(c);
    let fits = !name.is_empty() && name.len() < 128 && !name.starts_with(['/', '.']) && name.chars().all(is_zone);
    fits.then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(set: &[(&str, &str)], mode: NetMode, given: &[&str]) -> HostEnv {
        let host_alias = (mode == NetMode::User).then_some(Ipv4Addr::new(10, 0, 2, 2));
        on(&NetPlan { mode, interface: None, host_alias }, set, given)
    }

    fn on(net: &NetPlan, set: &[(&str, &str)], given: &[&str]) -> HostEnv {
        let variable =
            |name: &str| set.iter().find(|(other, _)| *other == name).map(|(_, value)| OsString::from(value));
        let given: Vec<_> = given.iter().map(|name| ((*name).into(), "".into())).collect();
        HostEnv::new(net, &variable, Path::new("/nowhere"), &given)
    }

    fn value(host_env: &HostEnv, name: &str) -> Option<String> {
        host_env.variables.iter().find(|(other, _)| other.0 == name.as_bytes()).map(|(_, value)| value.to_string())
    }

    #[test]
    fn proxy_variables_are_passed_with_reachable_address() {
        for (here, there) in [
            ("http://proxy.example:3128", "http://proxy.example:3128"),
            ("http://localhost:3128/", "http://10.0.2.2:3128/"),
            ("127.0.0.1:8080", "10.0.2.2:8080"),
            ("socks5h://127.1.2.3", "socks5h://10.0.2.2"),
            ("http://[::1]:1", "http://10.0.2.2:1"),
            ("http://[fd00::1]:1", "http://[fd00::1]:1"),
            ("http://me:p@ss@LOCALHOST:1", "http://10.0.2.2:1"),
            ("http://localhost.example:1", "http://localhost.example:1"),
        ] {
            let host_env = of(&[("https_proxy", here), ("NO_PROXY", "localhost,.example")], NetMode::User, &[]);
            assert_eq!(value(&host_env, "HTTPS_PROXY").as_deref(), Some(there), "{here}");
            assert_eq!(value(&host_env, "https_proxy").as_deref(), Some(there));
            assert_eq!(value(&host_env, "no_proxy").as_deref(), Some("localhost,.example"));
            assert_eq!(value(&host_env, "http_proxy"), None);
        }
        assert_eq!(value(&of(&[("http_proxy", "http://x")], NetMode::None, &[]), "http_proxy"), None);
    }

    #[test]
    fn proxy_on_loopback_is_left_out_where_the_guest_cannot_reach_the_host() {
        let net = NetPlan { mode: NetMode::User, interface: None, host_alias: None };
        let set = [("http_proxy", "http://me:secret@localhost:1"), ("https_proxy", "http://proxy:1")];
        let host_env = on(&net, &set, &[]);
        assert_eq!(value(&host_env, "http_proxy"), None);
        assert_eq!(host_env.warnings.len(), 1, "{host_env:?}");
        assert!(host_env.warnings[0].starts_with("`http_proxy` is at this machine's loopback"), "{host_env:?}");
        assert!(!format!("{host_env:?}").contains("secret"));
        assert_eq!(value(&host_env, "https_proxy").as_deref(), Some("http://proxy:1"));
    }

    #[test]
    fn proxy_password_is_withheld_unless_passed_explicitly() {
        let set = [("http_proxy", "http://me:secret@proxy:1")];
        let host_env = of(&set, NetMode::User, &[]);
        assert!(!format!("{host_env:?}").contains("secret"));
        assert!(host_env.warnings[0].contains("-e http_proxy"), "{host_env:?}");
        assert!(of(&set, NetMode::User, &["http_proxy"]).warnings.is_empty());
    }

    #[test]
    fn time_zone_is_passed_as_a_name() {
        for (zone, name) in [
            ("Europe/Berlin", Some("Europe/Berlin")),
            (":America/Argentina/Ushuaia", Some("America/Argentina/Ushuaia")),
            ("", Some("UTC")),
            ("CET-1CEST,M3.5.0,M10.5.0/3", Some("CET-1CEST,M3.5.0,M10.5.0/3")),
            ("/usr/share/zoneinfo/posix/Asia/Tokyo", Some("Asia/Tokyo")),
            ("/home/me/zone", None),
            ("../../x", None),
            ("a b", None),
        ] {
            assert_eq!(value(&of(&[("TZ", zone)], NetMode::None, &[]), "TZ").as_deref(), name, "{zone}");
        }
        let etc = tempfile::tempdir().unwrap();
        let zone = || time_zone(&|_| None, etc.path());
        assert_eq!(zone(), None);
        fs::write(etc.path().join("timezone"), "Asia/Kolkata\n").unwrap();
        assert_eq!(zone().as_deref(), Some("Asia/Kolkata"));
        std::os::unix::fs::symlink("../usr/share/zoneinfo/Asia/Tokyo", etc.path().join("localtime")).unwrap();
        assert_eq!(zone().as_deref(), Some("Asia/Tokyo"));
    }

    #[test]
    fn only_git_identity_and_locale_are_inherited() {
        let set = [("GIT_AUTHOR_NAME", "A"), ("GIT_DIR", "/x"), ("AWS_SECRET", "s"), ("LANG", "de_DE.UTF-8")];
        let host_env = of(&set, NetMode::User, &[]);
        let all: Vec<_> = host_env.variables.iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(all, ["LANG=C.UTF-8", "GIT_AUTHOR_NAME=A"]);
    }
}
