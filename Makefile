# make demo | test | bench | install PREFIX=… | clean
PREFIX ?= /usr/local
TARGET := $(or $(CARGO_TARGET_DIR),target)
HOST   := $(shell rustc -vV | sed -n 's/^host: //p')
# What `make install` copies, in the same layout, so that everything here runs as it does installed.
DIST   := $(TARGET)/dist
STATIC := --config 'target.$(HOST).rustflags=["-C","target-feature=+crt-static"]'

# Each is a program banger-*, and a link to it that completes its command line.
PLUGINS := image kernel ssh vm
# Other names of these programs.
SSH     := ssh-config ssh-proxy
# The name by which git runs banger, for banger://NAME.
REMOTE  := git-remote-banger

.PHONY: all build compile second process vsock demo test bench install clean
all: build

# Installs what the build needs, and no more: what banger needs to run, and its tests, is wanted by `demo`, `test` and `bench`.
build:
	@scripts/setup build
	@$(MAKE) --no-print-directory compile

# The agent runs in any image, so it is static. It has a target folder of its own, since its flags differ.
compile:
	cargo build --release --locked -p banger -p banger-vmm $(PLUGINS:%=-p banger-plugin-%)
	cargo build --release --locked -p banger-agent --features guest --target $(HOST) --target-dir $(TARGET)/static $(STATIC)
	@install -d $(DIST)/bin $(DIST)/lib/banger
	@install -m 755 $(addprefix $(TARGET)/release/,banger $(PLUGINS:%=banger-%)) $(DIST)/bin/
	@for name in $(SSH); do ln -sf banger-ssh $(DIST)/bin/banger-$$name; done
	@ln -sf banger $(DIST)/bin/$(REMOTE)
	@for plugin in $(PLUGINS) $(SSH); do ln -sf banger-$$plugin $(DIST)/bin/banger_complete-$$plugin; done
	@install -m 755 $(TARGET)/release/banger-vmm $(TARGET)/static/$(HOST)/release/banger-agent $(DIST)/lib/banger/
	@rm -rf $(DIST)/share
	@install -d $(addprefix $(DIST)/share/,man/man1 bash-completion/completions zsh/site-functions fish/vendor_completions.d)
	@install -m 644 docs/man/*.1 $(DIST)/share/man/man1/
	@$(DIST)/bin/banger completions bash >$(DIST)/share/bash-completion/completions/banger
	@$(DIST)/bin/banger completions zsh >$(DIST)/share/zsh/site-functions/_banger
	@$(DIST)/bin/banger completions fish >$(DIST)/share/fish/vendor_completions.d/banger.fish

# The parts that stay with a VM while it runs, as another version: for the test of an upgrade. They
# share the compiled crates of the agent and of `process`.
second: build
	BANGER_BUILD_VERSION=0.0.1-second cargo build --release --locked -p banger-vmm -p banger-agent --features banger-agent/guest --target $(HOST) --target-dir $(TARGET)/static $(STATIC)
	@install -d $(TARGET)/second/release
	@install -m 755 $(addprefix $(TARGET)/static/$(HOST)/release/,banger-vmm banger-agent) $(TARGET)/second/release/

# The same parts for guests that are processes of this host: for the tests that kill one at every
# step. And the supervisor of `vsock`, which is made of the same crates.
process:
	cargo build --release --locked -p banger-vmm -p banger-agent --features banger-vmm/process,banger-vmm/vsock,banger-agent/process --bin banger-vmm-process --bin banger-vmm-vsock --bin banger-agent-process --target $(HOST) --target-dir $(TARGET)/static $(STATIC)

# All of it again, with machines that look like Firecracker's: for the tests of the guest's half.
vsock: build process
	@rm -rf $(TARGET)/vsock
	@cp -a $(DIST) $(TARGET)/vsock
	@install -m 755 $(TARGET)/static/$(HOST)/release/banger-vmm-vsock $(TARGET)/vsock/lib/banger/banger-vmm
	@ln -s ../../../test-tools/usr/bin/vhost-device-vsock $(TARGET)/vsock/lib/banger/

demo: build
	@scripts/setup run
	@scripts/demo $(DIST)/bin/banger

test: build second process vsock
	@scripts/setup run test
	@scripts/test $(DIST)

bench: build process vsock
	@scripts/setup run test
	@scripts/bench $(DIST)

# Changes nothing of the machine but $(PREFIX): a package that is missing is named, and not installed.
install:
	@scripts/setup --check build
	@$(MAKE) --no-print-directory compile
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/lib/banger
	install -m 755 $(DIST)/bin/banger $(PLUGINS:%=$(DIST)/bin/banger-%) $(DESTDIR)$(PREFIX)/bin/
	for name in $(SSH); do ln -sf banger-ssh $(DESTDIR)$(PREFIX)/bin/banger-$$name; done
	ln -sf banger $(DESTDIR)$(PREFIX)/bin/$(REMOTE)
	for plugin in $(PLUGINS) $(SSH); do ln -sf banger-$$plugin $(DESTDIR)$(PREFIX)/bin/banger_complete-$$plugin; done
	install -m 755 $(DIST)/lib/banger/* $(DESTDIR)$(PREFIX)/lib/banger/
	find $(DIST)/share -type f -printf '%P\n' | while read -r file; do \
	    install -D -m 644 "$(DIST)/share/$$file" "$(DESTDIR)$(PREFIX)/share/$$file"; done

clean:
	cargo clean
