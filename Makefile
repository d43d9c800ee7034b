.PHONY: setup check test integration load run bench lock

setup: ; ./run.sh setup
check: ; ./run.sh test tests/unit tests/test_architecture.py
test: ; ./run.sh test
integration: ; ./run.sh test tests/integration tests/wire
load: ; ./run.sh load $(or $(NAME),steady) $(if $(HOST),--host $(HOST))
run: ; ./run.sh $(CONFIG)
bench: ; ./run.sh bench $(if $(QUICK),--quick)
lock: ; UV="uv pip compile --universal --python-version 3.10 --generate-hashes --no-header" && $$UV -q setup.py -o requirements.lock && $$UV -q setup.py --extra test -c requirements.lock -o requirements-dev.lock
