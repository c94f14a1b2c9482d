# make build      the programs to build/bin: static, but sekisho-pam, which is C to PAM;
#                 and the PAM module to build/lib
# make test       installs what it needs (sudo when not root), then all tests
# make race       the tests of packages with concurrency, under the race detector
# make fuzz       each fuzz target for FUZZTIME
# make fmt-check  gofmt has nothing to say
# make bench      measures against the peers and writes bench/results.tsv; then judging
#                 sessions, the audit record, the state and 1,000 hosts
# make chaos      kills and cuts off a small site under load, CHAOS="-rounds 20" for long
# make demo       the world of the README; make demo-stop removes every trace

GO       ?= go
FUZZTIME ?= 10s
PROGRAMS := sekishod sekisho sekisho-keys sekisho-reaper
CGO      := sekisho-pam
SUDO     := $(shell [ "$$(id -u)" = 0 ] || echo sudo)

all: build

build:
	CGO_ENABLED=0 $(GO) build -trimpath -o build/bin/ $(addprefix ./cmd/,$(PROGRAMS))
	@[ -e /usr/include/security/pam_appl.h ] || { echo "sekisho-pam needs PAM's headers: apt-get install libpam0g-dev gcc libc6-dev" >&2; exit 1; }
	CGO_ENABLED=1 $(GO) build -trimpath -o build/bin/ $(addprefix ./cmd/,$(CGO))
	@$(MAKE) -s -C pamhelper/module

packages:
	testenv/packages.sh base

# Never from the cache: the tests run the programs of cmd/, and the go tool
# cannot know that. What takes longest begins first.
test: packages
	$(GO) vet ./...
	$(GO) run ./testenv/gotest -- -count=1 -p 2 -timeout 20m ./testenv/signon ./realm ./...

# Packages that start goroutines or share memory.
race: packages
	$(GO) run ./testenv/gotest -- -race -count=1 -p 2 -timeout 20m ./testenv/endtoend ./realm $$(testenv/list.sh race)

fuzz: packages
	testenv/fuzz.sh $(FUZZTIME)

vet:
	$(GO) vet ./...

fmt-check:
	@bad=$$(gofmt -l $$(testenv/list.sh go)); [ -z "$$bad" ] || { echo "gofmt would change:"; echo "$$bad"; exit 1; }

bench:
	testenv/packages.sh base bench
	$(MAKE) build build/bin/bench
	build/bin/bench
	$(GO) test -run '^$$' -bench 'Judge|Door|Verify|CreateInside' ./broker ./audit ./state
	FEED_HOSTS=1000 $(GO) test -count=1 -v -run '^TestCrowd$$' ./feed

build/bin/bench: FORCE
	$(GO) build -trimpath -o build/bin/ ./bench
FORCE:

chaos: packages build
	$(GO) build -trimpath -o build/bin/ ./testenv/chaos
	build/bin/chaos $(CHAOS)

demo: packages build
	$(GO) build -trimpath -o build/bin/ ./testenv/demo
	$(SUDO) build/bin/demo up

demo-stop:
	@[ ! -e build/demo ] || { $(GO) build -trimpath -o build/bin/ ./testenv/demo && $(SUDO) build/bin/demo down; }

clean: demo-stop
	rm -rf build

.PHONY: all build packages test race fuzz vet fmt-check bench chaos demo demo-stop clean
