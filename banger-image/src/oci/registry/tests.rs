//! Registries that behave as registries do, and worse. Each is a real server on loopback.

use std::sync::atomic::AtomicUsize;
use std::time::{Duration, Instant};

use super::*;
use crate::fetch::http::server::{Request, Server, cut, response};

const BODY: &[u8] = b"the content of a layer";

fn at(server: &Server) -> Reference {
    format!("{}/team/app:v1", server.address).parse().unwrap()
}

fn descriptor() -> Descriptor {
    Descriptor {
        media_type: String::new(),
        digest: Digest::of(BODY),
        size: BODY.len() as u64,
        platform: None,
        annotations: Default::default(),
    }
}

/// Gets the blob from a server, with these credentials for it.
fn get(server: &Server, password: Option<&str>, folder: &std::path::Path) -> Result<Vec<u8>> {
    let mut credentials = Credentials::default();
    if let Some(password) = password {
        let file = folder.join("config.json");
        let auth = STANDARD.encode(password);
        fs_err::write(&file, format!(r#"{{"auths": {{"{}": {{"auth": "{auth}"}}}}}}"#, server.address)).unwrap();
        credentials.files.push(file);
    }
    let reference = at(server);
    let registry = Registry::new(&reference, &credentials, true, &|_| ())?;
    let blob = registry.blob(&descriptor(), &Cache::new(folder), &|_| (), &AtomicBool::new(false))?;
    blob.bytes("it", 100)
}

fn at_blob(request: &Request) -> bool {
    request.path == format!("/v2/team/app/blobs/{}", Digest::of(BODY))
}

#[test]
fn blob_is_downloaded_once_and_then_cached() {
    let server = Server::new(|request, _| {
        assert!(at_blob(request));
        response("200 OK", "", BODY)
    });
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(get(&server, None, folder.path()).unwrap(), BODY);
    assert_eq!(get(&server, None, folder.path()).unwrap(), BODY);
    assert_eq!(server.requests().len(), 1);
    assert_eq!(fs_err::read_dir(folder.path().join("oci/anonymous/partial")).unwrap().count(), 0);
}

#[test]
fn prune_during_download_keeps_its_data() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().to_owned();
    let server = Server::new(move |request, number| {
        // In the middle of it, and before its end.
        assert_eq!(super::super::prune_cache(&cache, std::time::Duration::ZERO, false).unwrap().blobs, 0);
        match (number, request.header("range")) {
            (1, None) => cut("", BODY.len(), &BODY[..5]),
            (2, Some("bytes=5-")) => {
                let range = format!("content-range: bytes 5-{}/{}\r\n", BODY.len() - 1, BODY.len());
                response("206 Partial Content", &range, &BODY[5..])
            }
            other => panic!("{other:?}"),
        }
    });
    assert_eq!(get(&server, None, folder.path()).unwrap(), BODY);
    assert_eq!(super::super::prune_cache(folder.path(), std::time::Duration::ZERO, false).unwrap().blobs, 1);
}

#[test]
fn download_resumes_after_interruption() {
    let server = Server::new(|request, number| match (number, request.header("range")) {
        (1, None) => cut("", BODY.len(), &BODY[..5]),
        (2, Some("bytes=5-")) => {
            let range = format!("content-range: bytes 5-{}/{}\r\n", BODY.len() - 1, BODY.len());
            response("206 Partial Content", &range, &BODY[5..])
        }
        other => panic!("{other:?}"),
    });
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(get(&server, None, folder.path()).unwrap(), BODY);
    assert_eq!(server.requests().len(), 2);
}

#[test]
fn download_gives_up_without_progress() {
    let server = Server::new(|_, _| cut("", BODY.len(), &BODY[..5]));
    let folder = tempfile::tempdir().unwrap();
    let error = get(&server, None, folder.path()).unwrap_err();
    assert!(error.to_string().contains("cannot get") && server.requests().len() == 5, "{error}");
}

#[test]
fn pull_resumes_or_discards_partial_blob() {
    // Of the right start only the rest is fetched; a wrong start, or a server without ranges, costs
    // one more request at most.
    for (left, ranges, expected) in
        [(&BODY[..7], true, 1), (b"garbage", true, 2), (&BODY[..7], false, 1), (&[b'x'; 99], true, 1)]
    {
        let server = Server::new(move |request, _| match request.header("range") {
            Some("bytes=7-") if ranges => {
                let range = format!("content-range: bytes 7-{}/{}\r\n", BODY.len() - 1, BODY.len());
                response("206 Partial Content", &range, &BODY[7..])
            }
            _ => response("200 OK", "", BODY),
        });
        let folder = tempfile::tempdir().unwrap();
        let partial = folder.path().join("oci/anonymous/partial");
        fs_err::create_dir_all(&partial).unwrap();
        fs_err::write(partial.join(Digest::of(BODY).hex()), left).unwrap();
        assert_eq!(get(&server, None, folder.path()).unwrap(), BODY);
        assert_eq!(server.requests().len(), expected, "{left:?} {ranges}");
    }
}

#[test]
fn wrong_content_is_refused_and_not_cached() {
    let longer = [BODY, b"!"].concat();
    let cases: [(&[u8], &str); 2] = [(b"the content of a LAYER", "what came is"), (&longer, "more came")];
    for (content, reason) in cases {
        let content = content.to_vec();
        let server = Server::new(move |_, _| response("200 OK", "", &content));
        let folder = tempfile::tempdir().unwrap();
        let error = get(&server, None, folder.path()).unwrap_err();
        assert!(error.to_string().contains(reason), "{error}");
        for place in ["partial", "blobs/sha256"] {
            assert_eq!(fs_err::read_dir(folder.path().join("oci/anonymous").join(place)).unwrap().count(), 0);
        }
    }
}

#[test]
fn retry_after_is_honored_up_to_a_limit() {
    let server = Server::new(|_, number| match number {
        1 => response("429 Too Many Requests", "retry-after: 1\r\n", b""),
        2 => response("503 Service Unavailable", "retry-after: 0\r\n", b""),
        _ => response("200 OK", "", BODY),
    });
    let begin = Instant::now();
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(get(&server, None, folder.path()).unwrap(), BODY);
    assert!(begin.elapsed() >= Duration::from_secs(1));
    let server = Server::new(|_, _| response("429 Too Many Requests", "retry-after: 3600\r\n", b""));
    let folder = tempfile::tempdir().unwrap();
    let error = get(&server, None, folder.path()).unwrap_err();
    assert!(error.hint().unwrap().contains("3600 s") && server.requests().len() == 1, "{error}");
}

#[test]
fn registry_errors_are_reported_by_cause() {
    type Case = (&'static str, &'static str, Option<&'static str>, &'static str);
    let denied = r#"{"errors": [{"code": "DENIED", "message": "no access to team/app"}]}"#;
    let cases: [Case; 5] = [
        ("403 Forbidden", "", None, "no access to team/app"),
        ("401 Unauthorized", "www-authenticate: Basic realm=\"r\"\r\n", None, "wants a user name"),
        ("401 Unauthorized", "www-authenticate: Basic realm=\"r\"\r\n", Some("u:wrong"), "no access"),
        ("401 Unauthorized", "www-authenticate: Magic\r\n", None, "does not know"),
        ("404 Not Found", "", None, "does not have it"),
    ];
    for (status, headers, password, reason) in cases {
        let server = Server::new(move |_, _| response(status, headers, denied.as_bytes()));
        let folder = tempfile::tempdir().unwrap();
        let error = get(&server, password, folder.path()).unwrap_err();
        assert!(error.to_string().contains(reason), "{status}: {error}");
    }
    let server = Server::new(|_, _| response("404 Not Found", "", b""));
    let (reference, credentials) = (at(&server), Credentials::default());
    let root = Registry::new(&reference, &credentials, true, &|_| ()).unwrap().root();
    assert!(matches!(root, Err(Error::NotInRegistry { .. })));
}

#[test]
fn web_page_is_not_taken_for_a_registry_answer() {
    let page = b"\n<!DOCTYPE html><title>Welcome</title>";
    for (status, headers) in [
        ("200 OK", "content-type: text/html; charset=utf-8\r\n"),
        ("200 OK", "content-type: application/json\r\n"),
        ("404 Not Found", "content-type: text/html\r\n"),
    ] {
        let server = Server::new(move |_, _| response(status, headers, page));
        let (reference, credentials) = (at(&server), Credentials::default());
        let error = Registry::new(&reference, &credentials, true, &|_| ()).unwrap().root().unwrap_err();
        assert!(error.to_string().ends_with("127.0.0.1 answers with a web page"), "{status}: {error}");
        assert!(error.hint().unwrap().contains("is 127.0.0.1 a registry?"), "{error}");
    }
}

#[test]
fn basic_credentials_are_not_sent_to_redirect_targets() {
    let other = Server::new(|_, _| response("200 OK", "", BODY));
    let location = format!("location: http://{}/signed?x=y\r\n", other.address);
    let server = Server::new(move |request, _| match request.header("authorization") {
        Some("Basic dTpwOnc=") => response("307 Temporary Redirect", &location, b""),
        _ => response("401 Unauthorized", "www-authenticate: Basic realm=\"r\"\r\n", b""),
    });
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(get(&server, Some("u:p:w"), folder.path()).unwrap(), BODY);
    let [request] = &other.requests()[..] else { panic!() };
    assert_eq!((request.path.as_str(), request.header("authorization")), ("/signed?x=y", None));
}

#[test]
fn tokens_are_scoped_to_pull_and_renewed() {
    // The registry gives them itself, and proposes a scope of its own.
    let (tokens, uses) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let server = Server::new(move |request, _| {
        if request.path.starts_with("/token") {
            assert_eq!(request.path, "/token?service=s&scope=repository%3Ateam%2Fapp%3Apull");
            assert_eq!(request.header("authorization"), Some("Basic dTpw"));
            let number = tokens.fetch_add(1, Ordering::Relaxed) + 1;
            return response("200 OK", "", format!(r#"{{"access_token": "t{number}"}}"#).as_bytes());
        }
        let realm = format!("http://{}/token", request.header("host").unwrap());
        let challenge =
            format!("www-authenticate: Bearer realm=\"{realm}\",service=\"s\",scope=\"registry:catalog:*\"\r\n");
        match request.header("authorization") {
            Some("Bearer t1") if uses.fetch_add(1, Ordering::Relaxed) == 0 => cut("", BODY.len(), &BODY[..3]),
            Some("Bearer t2") => response("200 OK", "", BODY),
            _ => response("401 Unauthorized", &challenge, b""),
        }
    });
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(get(&server, Some("u:p"), folder.path()).unwrap(), BODY);
    let requests = server.requests();
    let sent: Vec<_> = requests.iter().filter_map(|request| request.header("authorization")).collect();
    assert_eq!(sent, ["Basic dTpw", "Bearer t1", "Bearer t1", "Basic dTpw", "Bearer t2"]);
}

#[test]
fn untrusted_token_server_gets_no_credentials() {
    let elsewhere = Server::new(|_, _| response("200 OK", "", br#"{"token": "anonymous"}"#));
    // A host is another one if only its name differs, and not its address.
    let realm = format!("http://localhost:{}/token", elsewhere.address.rsplit(':').next().unwrap());
    let server = Server::new(move |request, _| match request.header("authorization") {
        Some("Bearer anonymous") => response("200 OK", "", BODY),
        _ => response("401 Unauthorized", &format!("www-authenticate: Bearer realm=\"{realm}\"\r\n"), b""),
    });
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(get(&server, Some("u:p"), folder.path()).unwrap(), BODY);
    assert!(elsewhere.requests().iter().all(|request| request.header("authorization").is_none()));
    assert!(!elsewhere.requests().is_empty());
}

#[test]
fn token_server_is_trusted_by_domain() {
    let trusted = |registry: &str, realm: &str| {
        let url = |host: &str| Url::parse(&format!("https://{host}/x")).unwrap();
        is_trusted(&url(registry), &url(realm))
    };
    assert!(trusted("registry-1.docker.io", "auth.docker.io") && trusted("registry.gitlab.com", "gitlab.com"));
    assert!(trusted("ghcr.io", "ghcr.io") && trusted("127.0.0.1:5000", "127.0.0.1:5001"));
    assert!(!trusted("ghcr.io", "evil.io") && !trusted("registry-1.docker.io", "notdocker.io"));
    assert!(!trusted("registry-1.docker.io", "docker.io.evil.org") && !trusted("127.0.0.1:1", "1.0.0.1"));
}

#[test]
fn redirect_loops_and_wrong_manifests_are_refused() {
    let server = Server::new(|request, _| response("302 Found", &format!("location: {}\r\n", request.path), b""));
    let folder = tempfile::tempdir().unwrap();
    let error = get(&server, None, folder.path()).unwrap_err();
    assert!(error.to_string().contains("more than 10 times"), "{error}");
    let server = Server::new(|_, _| response("302 Found", "location: file:///etc/passwd\r\n", b""));
    assert!(get(&server, None, folder.path()).unwrap_err().to_string().contains("not encrypted"));

    let announced = format!("docker-content-digest: {}\r\n", Digest::of(b"another"));
    let server = Server::new(move |_, _| response("200 OK", &announced, b"{}"));
    let (reference, credentials) = (at(&server), Credentials::default());
    let root = Registry::new(&reference, &credentials, true, &|_| ()).unwrap().root();
    assert!(root.unwrap_err().to_string().contains("not what was asked for"));
    let server = Server::new(|_, _| response("200 OK", "", &vec![b' '; 5 << 20]));
    let reference = at(&server);
    let root = Registry::new(&reference, &credentials, true, &|_| ()).unwrap().root();
    assert!(root.unwrap_err().to_string().contains("more than"), "a manifest without an end");
}
