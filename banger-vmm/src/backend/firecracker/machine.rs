//! What a VM is for Firecracker: its kernel's command line, and the calls that configure it.

use std::path::{Path, PathBuf};

use banger_agent::boot_config::{AGENT_PORT, AgentDevice, DiskNaming, DiskRole};
use banger_agent::net::NetMode;

use super::api::{
    Balloon, BootSource, CacheType, Drive, EntropyDevice, MachineConfiguration, NetworkInterface, RateLimiter, Request,
    TokenBucket, Version, Vsock,
};
use super::run_directory::VSOCK_SOCKET;
use crate::backend::VmDefinition;
use crate::error::Failure;
use crate::network;
use crate::record::RateLimits;

/// What the guest's kernel is told in any case. `reboot=k` resets by the keyboard controller, which
/// is how a guest ends a Firecracker (its docs/api_requests/actions.md). There is no PCI and no
/// mouse to look for.
const KERNEL_PARAMETERS: &str = "console=ttyS0 reboot=k panic=-1 quiet pci=off i8042.noaux i8042.nomux i8042.dumbkbd";
/// As much fits into Firecracker's `CMDLINE_MAX_SIZE`, in bytes.
const MAX_COMMAND_LINE: usize = 2048;
/// Firecracker adds a ` virtio_mmio.device=4K@0xADDRESS:IRQ` for each device, in bytes at most,
const ADDED_FOR_DEVICE: usize = 52;
/// and ` pci=off` and a final zero.
const ADDED: usize = 16;

/// The links in the run directory, to the kernel and the initramfs.
const KERNEL: &str = "vmlinux";
const INITRAMFS: &str = "initrd";
/// The hardware address that QEMU gives by default, so that the same guest finds the same interface
/// whatever runs it.
const MAC: &str = "52:54:00:12:34:56";
/// The first that a guest may have: vsock(7). Each Firecracker has its own addresses.
const GUEST_CID: u32 = 3;

/// The file name of a disk's link in the run directory.
fn disk_link(role: DiskRole) -> String {
    format!("{}.ext4", role.name())
}

/// The kernel that Firecracker boots.
///
/// # Errors
/// There is none: who started the VM knows of none, or of none that Firecracker can boot.
pub(super) fn kernel(vm: &VmDefinition) -> Result<&Path, Failure> {
    vm.vmlinux.as_deref().ok_or_else(|| {
        let name = &vm.record.kernel;
        let failure = Failure::new(format!("Firecracker cannot boot the kernel `{name}`"));
        failure.with_hint(format!("why, and what to do: banger kernel show {name}"))
    })
}

/// The links that the run directory needs, each with the file that it leads to.
pub(super) fn links(vm: &VmDefinition, kernel: &Path) -> Vec<(String, PathBuf)> {
    let boot = [(KERNEL.to_owned(), kernel.to_owned()), (INITRAMFS.to_owned(), vm.initramfs.clone())];
    let disks = vm.disks().into_iter().map(|(role, file)| (disk_link(role), file.to_owned()));
    boot.into_iter().chain(disks).collect()
}

/// The calls that make the VM of a Firecracker of this version that has no configuration yet. Disks
/// and devices appear in the guest in this order.
pub(super) fn configuration(vm: &VmDefinition, version: Version) -> Result<Vec<Request>, Failure> {
    let record = &vm.record;
    let machine = MachineConfiguration { vcpu_count: record.cpus, mem_size_mib: record.memory_mib };
    let limits = &record.limits;
    let (disks, network) = (disk_limiter(limits, 1 + u64::from(vm.workspace.is_some())), network_limiter(limits));
    let mut devices = vec![Balloon::empty(version).request()];
    for (role, _) in vm.disks() {
        let is_read_only = matches!(role, DiskRole::Base | DiskRole::Modules);
        // What an ephemeral VM writes need not survive anything.
        let cache_type = if is_read_only || record.ephemeral { CacheType::Unsafe } else { CacheType::Writeback };
        let path_on_host = &PathBuf::from(disk_link(role));
        let (drive_id, is_root_device) = (role.name(), false);
        let rate_limiter = disks.filter(|_| !is_read_only);
        let drive = Drive { drive_id, path_on_host, is_root_device, is_read_only, cache_type, rate_limiter };
        devices.push(drive.request());
    }
    if vm.net.mode == NetMode::User {
        let (iface_id, host_dev_name, guest_mac) = ("net", network::TAP, MAC);
        let (rx_rate_limiter, tx_rate_limiter) = (network, network);
        let interface = NetworkInterface { iface_id, host_dev_name, guest_mac, rx_rate_limiter, tx_rate_limiter };
        devices.push(interface.request());
    }
    devices.push(Vsock { guest_cid: GUEST_CID, uds_path: Path::new(VSOCK_SOCKET) }.request());
    devices.push(EntropyDevice {}.request());

    let boot_args = &boot_args(vm, devices.len())?;
    let (kernel_image_path, initrd_path) = (Path::new(KERNEL), Path::new(INITRAMFS));
    let boot_source = BootSource { kernel_image_path, initrd_path, boot_args };
    Ok([machine.request(), boot_source.request()].into_iter().chain(devices).collect())
}

/// The limits of each of the VM's own disks. Firecracker limits one disk, and the record all of
/// them together, so each has its part.
fn disk_limiter(limits: &RateLimits, disks: u64) -> Option<RateLimiter> {
    limiter(limits.disk_bandwidth.div_ceil(disks), limits.disk_iops.div_ceil(disks))
}

/// The limits of the network, for each direction.
fn network_limiter(limits: &RateLimits) -> Option<RateLimiter> {
    limiter(limits.net_bandwidth, 0)
}

/// A limit of bytes and of operations a second; 0: none.
fn limiter(bytes: u64, operations: u64) -> Option<RateLimiter> {
    let bucket = |rate: u64| (rate > 0).then(|| TokenBucket::per_second(rate));
    let limiter = RateLimiter { bandwidth: bucket(bytes), ops: bucket(operations) };
    (limiter != RateLimiter::default()).then_some(limiter)
}

/// The guest's kernel command line, but for what Firecracker adds for so many devices.
fn boot_args(vm: &VmDefinition, devices: usize) -> Result<String, Failure> {
    let line = format!("{KERNEL_PARAMETERS} {}", vm.boot_config(AgentDevice::Vsock(AGENT_PORT), DiskNaming::Order));
    let room = MAX_COMMAND_LINE - ADDED - devices * ADDED_FOR_DEVICE;
    if line.len() > room {
        let message =
            format!("the kernel's command line is {} bytes long, and Firecracker has room for {room}", line.len());
        return Err(Failure::new(message).with_hint("give the VM a shorter name"));
    }
    Ok(line)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::record::{BackendKind, VmRecord};

    fn definition(change: impl FnOnce(&mut VmRecord)) -> VmDefinition {
        let mut record = VmRecord::new("work", "image", "kernel", 0);
        record.machine_id = "0".repeat(32);
        change(&mut record);
        VmDefinition {
            vmlinux: Some("/vmlinux".into()),
            base: "/images/base".into(),
            workspace: Some("/w".into()),
            modules: Some("/m".into()),
            ..VmDefinition::for_test(record, BackendKind::Firecracker)
        }
    }

    /// Each call, with its body.
    fn calls(vm: &VmDefinition) -> Vec<(String, Value)> {
        let requests = configuration(vm, Version::OLDEST).unwrap();
        requests.iter().map(|request| (request.to_string(), request.body_json())).collect()
    }

    fn body<'a>(calls: &'a [(String, Value)], call: &str) -> &'a Value {
        &calls.iter().find(|(name, _)| name == call).unwrap_or_else(|| panic!("{call}: {calls:?}")).1
    }

    #[test]
    fn calls_make_the_machine_of_the_record() {
        let calls = calls(&definition(|record| record.cpus = 3));
        let names: Vec<_> = calls.iter().map(|(name, _)| name.strip_prefix("PUT /").unwrap()).collect();
        let (machine, devices) = names.split_at(2);
        assert_eq!(machine, ["machine-config", "boot-source"]);
        assert_eq!(devices[..5], ["balloon", "drives/base", "drives/disk", "drives/workspace", "drives/modules"]);
        assert_eq!(devices[5..], ["network-interfaces/net", "vsock", "entropy"]);
        assert_eq!(*body(&calls, "PUT /machine-config"), json!({"vcpu_count": 3, "mem_size_mib": 2048}));
        assert_eq!(*body(&calls, "PUT /vsock"), json!({"guest_cid": 3, "uds_path": "v.sock"}));
        let boot = body(&calls, "PUT /boot-source");
        assert_eq!((&boot["kernel_image_path"], &boot["initrd_path"]), (&json!("vmlinux"), &json!("initrd")));
        let line = boot["boot_args"].as_str().unwrap();
        assert!(line.starts_with("console=ttyS0 reboot=k panic=-1 quiet pci=off "), "{line}");
        for words in [
            " banger.hostname=work banger.machine_id=00000000000000000000000000000000 banger.net=10.0.2.15/24,",
            " banger.agent=vsock:1000 banger.disks=order:base,disk,workspace,modules",
        ] {
            assert!(line.contains(words), "{line}");
        }
    }

    #[test]
    fn only_disks_that_last_are_flushed_and_only_those_of_the_vm_written() {
        for (ephemeral, cache_type) in [(false, "Writeback"), (true, "Unsafe")] {
            let calls = calls(&definition(|record| record.ephemeral = ephemeral));
            for (name, is_read_only, cache_type) in [
                ("base", true, "Unsafe"),
                ("disk", false, cache_type),
                ("workspace", false, cache_type),
                ("modules", true, "Unsafe"),
            ] {
                let expected = json!({
                    "drive_id": name, "path_on_host": format!("{name}.ext4"), "is_root_device": false,
                    "is_read_only": is_read_only, "cache_type": cache_type,
                });
                assert_eq!(*body(&calls, &format!("PUT /drives/{name}")), expected);
            }
        }
    }

    #[test]
    fn limits_are_of_the_own_disks_together_and_of_each_direction() {
        let limits = RateLimits { disk_iops: 100, disk_bandwidth: 2001, net_bandwidth: 5000 };
        let bucket = |size: u64| json!({"size": size, "refill_time": 1000});
        let mut vm = definition(|record| record.limits = limits);
        let all = calls(&vm);
        for (disk, expected) in [
            ("disk", json!({"bandwidth": bucket(1001), "ops": bucket(50)})),
            ("workspace", json!({"bandwidth": bucket(1001), "ops": bucket(50)})),
            ("base", Value::Null),
            ("modules", Value::Null),
        ] {
            assert_eq!(body(&all, &format!("PUT /drives/{disk}"))["rate_limiter"], expected, "{disk}");
        }
        let interface = body(&all, "PUT /network-interfaces/net");
        for direction in ["rx_rate_limiter", "tx_rate_limiter"] {
            assert_eq!(interface[direction], json!({"bandwidth": bucket(5000)}));
        }
        vm.workspace = None;
        vm.record.limits.disk_bandwidth = 0;
        assert_eq!(body(&calls(&vm), "PUT /drives/disk")["rate_limiter"], json!({"ops": bucket(100)}));
        // Without limits there are no limiters.
        let all = calls(&definition(|_| ()));
        assert!(all.iter().all(|(_, body)| !body.to_string().contains("limiter")), "{all:?}");
    }

    #[test]
    fn vm_without_network_has_no_interface() {
        let calls = calls(&definition(|record| record.net = NetMode::None));
        assert!(!calls.iter().any(|(name, _)| name.contains("network")), "{calls:?}");
    }

    #[test]
    fn links_lead_to_the_files_that_the_calls_name() {
        let vm = definition(|_| ());
        let links = links(&vm, kernel(&vm).unwrap());
        assert_eq!(links[0], ("vmlinux".into(), "/vmlinux".into()));
        assert_eq!(links[3], ("disk.ext4".into(), "/d".into()));
        let calls = calls(&vm);
        for field in ["kernel_image_path", "initrd_path", "path_on_host"] {
            for path in calls.iter().filter_map(|(_, body)| body[field].as_str()) {
                assert!(links.iter().any(|(name, _)| name == path), "{path}");
            }
        }
    }

    #[test]
    fn kernel_that_firecracker_cannot_boot_is_refused_with_how_to_learn_why() {
        let vm = VmDefinition { vmlinux: None, ..definition(|_| ()) };
        let failure = kernel(&vm).unwrap_err();
        assert_eq!(failure.message, "Firecracker cannot boot the kernel `kernel`");
        assert!(failure.hint.unwrap().contains("banger kernel show kernel"));
    }

    #[test]
    fn command_line_that_does_not_fit_is_refused_before_firecracker_does() {
        configuration(&definition(|record| record.hostname = "h".repeat(63)), Version::OLDEST).unwrap();
        let long = definition(|record| record.hostname = "h".repeat(2000));
        let failure = configuration(&long, Version::OLDEST).unwrap_err();
        assert!(failure.message.contains("Firecracker has room for 1616"), "{failure:?}");
    }
}
