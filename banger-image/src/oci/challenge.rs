//! The `WWW-Authenticate` header of registries (RFC 9110, 11.6.1; distribution, "Token
//! Authentication").
//!
//! The crate `http-auth` is not used: it keeps to the grammar, while the parser here also takes
//! unquoted URLs and what precedes malformed text, and the choice of a challenge would stay here.

/// A challenge that this crate can answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Challenge {
    /// User name and password are sent with the request.
    Basic,
    /// A token is requested at the URL `realm`, for `service`.
    Bearer { realm: String, service: Option<String> },
}

impl Challenge {
    /// Selects from the values of all headers: the first `Bearer` with a realm, else `Basic`.
    pub(super) fn find<'a>(values: impl Iterator<Item = &'a str>) -> Option<Challenge> {
        let mut basic = None;
        for value in values {
            let value = value.trim();
            let (scheme, parameters) = value.split_once(' ').unwrap_or((value, ""));
            if scheme.eq_ignore_ascii_case("bearer") {
                let parameters = parse(parameters);
                let of = |name: &str| {
                    parameters.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.clone())
                };
                if let Some(realm) = of("realm") {
                    return Some(Challenge::Bearer { realm, service: of("service") });
                }
            } else if scheme.eq_ignore_ascii_case("basic") {
                basic = Some(Challenge::Basic);
            }
        }
        basic
    }
}

/// Parses `name=value, name="value"`. Malformed text ends the list.
fn parse(text: &str) -> Vec<(String, String)> {
    let mut parameters = Vec::new();
    let mut rest = text.trim_start_matches([' ', ',']);
    while let Some((name, value)) = rest.split_once('=') {
        let (value, behind) = match value.strip_prefix('"') {
            Some(quoted) => {
                let mut value = String::new();
                let mut characters = quoted.char_indices();
                let end = loop {
                    match characters.next() {
                        Some((at, '"')) => break at + 1,
                        Some((_, '\\')) => value.extend(characters.next().map(|(_, c)| c)),
                        Some((_, c)) => value.push(c),
                        None => return parameters,
                    }
                };
                (value, &quoted[end..])
            }
            None => {
                let end = value.find(',').unwrap_or(value.len());
                (value[..end].trim().to_owned(), &value[end..])
            }
        };
        parameters.push((name.trim().to_owned(), value));
        rest = behind.trim_start_matches([' ', ',']);
    }
    parameters
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auth_challenges_parse_in_all_forms() {
        let find = |values: &[&str]| Challenge::find(values.iter().copied());
        let bearer = |realm: &str, service: Option<&str>| {
            Some(Challenge::Bearer { realm: realm.into(), service: service.map(str::to_owned) })
        };
        let hub = r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="a:b,c""#;
        assert_eq!(find(&[hub]), bearer("https://auth.docker.io/token", Some("registry.docker.io")));
        assert_eq!(
            find(&["Basic realm=\"x\"", "bearer service=s, realm=https://x/t"]),
            bearer("https://x/t", Some("s"))
        );
        assert_eq!(find(&["Basic realm=\"x\""]), Some(Challenge::Basic));
        assert_eq!(find(&[r#"Bearer realm="a\"b""#]), bearer("a\"b", None));
        for bad in ["", "Bearer", "Bearer realm=\"open", "Digest realm=\"x\"", "Bearer service=\"s\""] {
            assert_eq!(find(&[bad]), None, "{bad}");
        }
    }
}
