# The commands of the README. CMake and its presets do the work; this installs what is missing first.

.PHONY: help setup build install install-library test demo asan tsan fuzz torture tidy clean

help:
	@echo "make build  build the program alone: build/release/flexgen"
	@echo "make install  the program, man pages and completions to PREFIX (default /usr/local), below DESTDIR if that is given"
	@echo "make install-library  the engine for programs of others (examples/hello_engine.cc), in the same places"
	@echo "make demo   build, then run the main job: a few hundred invoice lines to JSON, from disk, in a small RAM budget"
	@echo "make test   build and run all tests"
	@echo "make asan   the tests under AddressSanitizer and UndefinedBehaviorSanitizer"
	@echo "make tsan   the tests under ThreadSanitizer"
	@echo "make torture  3,000 spoilt checkpoints, 2,000 hostile lines, 300 kills; about half an hour (SEED=N repeats one)"
	@echo "make tidy   clang-tidy over all but tests; needs clang-tidy 14 (make test does a part)"
	@echo "make fuzz   the fuzz targets, FUZZ_SECONDS each (default 60); needs clang"

setup:
	@tools/install_packages.sh

build: setup
	@cmake --preset release >/dev/null
	@cmake --build --preset release --target flexgen

install: build
	@DESTDIR=$(DESTDIR) cmake --install build/release --component program --prefix $(or $(PREFIX),/usr/local)

install-library: build
	@DESTDIR=$(DESTDIR) cmake --install build/release --component library --prefix $(or $(PREFIX),/usr/local)

test: setup
	@cmake --preset release >/dev/null
	@cmake --build --preset release
	@ctest --preset release

demo: build
	@demo/run.sh build/release/flexgen

asan tsan: setup
	@cmake --preset $@ >/dev/null
	@cmake --build --preset $@
	@ctest --preset $@ -j $$(nproc)

fuzz: setup
	@tools/fuzz.sh $(or $(FUZZ_SECONDS),60)

tidy: setup
	@tests/tidy.sh . build --all

torture: build
	@tools/torture.sh build/release/flexgen $(SEED)

clean:
	rm -rf build
