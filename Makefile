# The front door. `make` builds build/kizashi; `make run` shows it at work; `make test` tests all.
BUILD ?= build
JOBS  ?= $(shell nproc)
CMAKE  = cmake -G Ninja -S .

.PHONY: all run test crash check check-asan check-tsan fuzz-smoke deployment bench format layers deps deps-test \
        install clean docs image

all: $(BUILD)/build.ninja
	@cmake --build $(BUILD) -j $(JOBS) --target kizashi

$(BUILD)/build.ninja: CMakeLists.txt
	@tools/install-deps build
	@$(CMAKE) -B $(BUILD) $(CMAKE_FLAGS) >$(BUILD).cmake.log 2>&1 || { cat $(BUILD).cmake.log; exit 1; }
	@rm -f $(BUILD).cmake.log

run:
	@tools/install-deps run
	@$(MAKE) --no-print-directory all
	@$(BUILD)/kizashi demo $(if $(LISTEN),--listen $(LISTEN)) $(if $(DATA),--data $(DATA))

test:
	@tools/install-deps test
	@tools/run-tests

crash:
	@tools/install-deps test
	@$(MAKE) --no-print-directory all
	@tools/run-tests crash-long

check-asan:
	@tools/install-deps test
	@tools/run-tests asan

check-tsan:
	@tools/install-deps test
	@tools/run-tests tsan

fuzz-smoke:
	@tools/install-deps fuzz
	@tools/run-tests fuzz

# A whole deployment beside Google's emulators, with all of the REES46 log (`make test` plays a part).
deployment:
	@tools/install-deps test
	@$(MAKE) --no-print-directory all
	@KZ_DEPLOYMENT_ROWS=0 tools/with-emulators python3 -m pytest -q -s -p no:cacheprovider --durations=0 tests/e2e/test_deployment.py

bench: all
	@$(BUILD)/kizashi bench $(BENCH_FLAGS)

format:
	@tools/install-deps format
	@git ls-files 'src/**.[ch]' 'tests/**.[ch]' | xargs clang-format -i

layers:
	@tools/check-layers

docs: all
	@tools/make-docs $(BUILD)/kizashi

deps:
	@tools/install-deps run

install: all
	@cmake --install $(BUILD) --prefix $(or $(PREFIX),/usr/local)

image:
	@tools/make-image $(IMAGE)

clean:
	@rm -rf $(BUILD) build-*
