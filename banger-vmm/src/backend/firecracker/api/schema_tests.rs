//! What the client sends, against the schemas of all supported versions.

use std::fs;
use std::path::Path;

use jsonschema::{Draft, Validator};
use serde_json::{Value, json};

use super::*;

/// A version's schema, from `tests/data/firecracker`.
struct Schema {
    version: Version,
    document: Value,
}

impl Schema {
    fn all() -> Vec<Schema> {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/firecracker");
        let paths = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
        let mut all: Vec<_> = paths
            .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
            .map(|path| {
                let mut document: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
                let version = Version::parse(document["info"]["version"].as_str().unwrap()).unwrap();
                for definition in document["definitions"].as_object_mut().unwrap().values_mut() {
                    close(definition);
                }
                Schema { version, document }
            })
            .collect();
        all.sort_by_key(|schema| schema.version);
        all
    }

    /// Why a call is not one of this version; none: it is.
    fn objection(&self, request: &Request) -> Option<String> {
        let paths = self.document["paths"].as_object().unwrap();
        let Some((_, path)) = paths.iter().find(|(template, _)| is_of_template(&request.path, template)) else {
            return Some(format!("there is no {}", request.path));
        };
        let operation = path.get(request.method.as_str().to_lowercase());
        let Some(operation) = operation else { return Some(format!("there is no {request}")) };
        let parameters = operation["parameters"].as_array().into_iter().flatten();
        let body = parameters.into_iter().find(|parameter| parameter["in"] == "body");
        let (Some(body), Some(sent)) = (body, &request.body) else {
            return (body.is_some() != request.body.is_some()).then(|| "a body that is not expected, or none".into());
        };
        let schema = json!({"$ref": body["schema"]["$ref"], "definitions": self.document["definitions"]});
        let validator: Validator = jsonschema::options().with_draft(Draft::Draft4).build(&schema).unwrap();
        let sent: Value = serde_json::from_slice(sent).unwrap();
        let errors: Vec<_> = validator.iter_errors(&sent).map(|error| error.to_string()).collect();
        (!errors.is_empty()).then(|| errors.join("; "))
    }
}

/// Has no object take fields that the schema does not list: Firecracker takes none
/// (`deny_unknown_fields`).
fn close(definition: &mut Value) {
    let Some(object) = definition.as_object_mut() else { return };
    let Some(properties) = object.get_mut("properties").and_then(Value::as_object_mut) else { return };
    properties.values_mut().for_each(close);
    object.entry("additionalProperties").or_insert(json!(false));
}

fn is_of_template(path: &str, template: &str) -> bool {
    let (path, template) = (path.split('/'), template.split('/'));
    path.clone().count() == template.clone().count()
        && path
            .zip(template)
            .all(|(word, expected)| word == expected || (expected.starts_with('{') && !word.is_empty()))
}

/// Every call that the client can make of a Firecracker of this version, each with all that it can
/// say.
fn every_call(version: Version) -> Vec<Request> {
    let path = Path::new("file");
    let bucket = Some(TokenBucket::per_second(1 << 40));
    let limiters = [
        None,
        Some(RateLimiter { bandwidth: bucket, ops: None }),
        Some(RateLimiter { bandwidth: None, ops: bucket }),
        Some(RateLimiter { bandwidth: bucket, ops: bucket }),
    ];
    let mut calls = vec![
        Request::get("/version"),
        MachineConfiguration { vcpu_count: 32, mem_size_mib: 1 << 20 }.request(),
        BootSource { kernel_image_path: path, initrd_path: path, boot_args: "console=ttyS0" }.request(),
        Vsock { guest_cid: 3, uds_path: path }.request(),
        EntropyDevice {}.request(),
        Balloon::empty(version).request(),
        Action::InstanceStart.request(),
        VmState::Paused.request(),
        VmState::Resumed.request(),
        SnapshotCreateParams::full(path, path).request(),
        SnapshotLoadParams::resumed(path, path).request(),
    ];
    for rate_limiter in limiters {
        let [read_only, writable] = [(true, CacheType::Unsafe), (false, CacheType::Writeback)];
        for (is_read_only, cache_type) in [read_only, writable] {
            let (drive_id, is_root_device) = ("base", false);
            calls.push(
                Drive { drive_id, path_on_host: path, is_root_device, is_read_only, cache_type, rate_limiter }
                    .request(),
            );
        }
        let (iface_id, host_dev_name, guest_mac) = ("net", "vm0", "52:54:00:12:34:56");
        let (rx_rate_limiter, tx_rate_limiter) = (rate_limiter, rate_limiter);
        calls.push(NetworkInterface { iface_id, host_dev_name, guest_mac, rx_rate_limiter, tx_rate_limiter }.request());
    }
    calls
}

#[test]
fn every_call_is_valid_for_every_supported_version() {
    let all = Schema::all();
    let minors: Vec<_> = all.iter().map(|schema| schema.version.to_string()).collect();
    assert_eq!(minors, ["1.12.1", "1.13.2", "1.14.4", "1.15.1", "1.16.1", "1.17.0"]);
    for schema in &all {
        assert!(schema.version >= Version::OLDEST);
        for call in every_call(schema.version) {
            let body = String::from_utf8_lossy(call.body.as_deref().unwrap_or_default()).into_owned();
            assert_eq!(schema.objection(&call), None, "{}: {call} {body}", schema.version);
        }
    }
}

#[test]
fn schemas_refuse_what_firecracker_does() {
    let all = Schema::all();
    let oldest = &all[0];
    // A field of a later version.
    let later = Balloon::empty(Version::FREE_PAGE_REPORTING).request();
    assert!(oldest.objection(&later).unwrap().contains("free_page_reporting"));
    assert_eq!(all.last().unwrap().objection(&later), None);
    // A path of a later version, a method that there is not, a field that lacks, a value too large.
    let refused = [
        Request::put("/serial", &json!({})),
        Request::patch("/vsock", &json!({})),
        Request::put("/vsock", &json!({"guest_cid": 3})),
        Request::put("/vsock", &json!({"guest_cid": 2, "uds_path": "v"})),
        Request::put("/machine-config", &json!({"vcpu_count": 33, "mem_size_mib": 1})),
        Request::put("/drives/x", &json!({"drive_id": "x", "is_root_device": false, "rate_limiter": {"more": 1}})),
        Request::put("/actions", &json!({"action_type": "Stop"})),
        Request::get("/vm/nothing"),
        Request::put("/version", &json!({})),
    ];
    for request in refused {
        assert!(oldest.objection(&request).is_some(), "{request}");
    }
}
