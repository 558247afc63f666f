"""Answers that follow generated schemas parse and are valid by PyPI jsonschema; the same under another policy. jsonschema is fetched with pip where it is missing; skipped (77) where that cannot be done.
Usage: structured.py FLEXGEN SOURCE_DIR [--count N] [--seed N]"""
import argparse
import json
import os
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile

from pip_module import pip_module
from ranks import MPI_VARIABLES

FORMATS = ["date", "time", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "uri", "uuid"]


def a_schema(rng, depth=0):
    kinds = ["string", "integer", "number", "boolean", "null", "enum", "const", "format", "pattern", "several"]
    if depth < 3:
        kinds += ["object"] * 4 + ["array"] * 3 + ["anyOf", "oneOf", "tuple", "map", "all", "either", "if", "set"]
    kind = rng.choice(kinds) if depth else rng.choice(["object", "object", "array", "anyOf", "tuple"])
    inner = lambda: a_schema(rng, depth + 1)
    if kind == "string":
        least = rng.randrange(4)
        return {"type": "string", "minLength": least, "maxLength": least + rng.randrange(6)}
    if kind == "integer":
        least = rng.randrange(-200, 200)
        return {"type": "integer", "minimum": least, "maximum": least + rng.randrange(1000)}
    if kind == "number":
        return {"type": "number", "minimum": rng.choice([-1.5, 0, 2]), "maximum": rng.choice([3, 10.25, 1000])}
    if kind in ("boolean", "null"):
        return {"type": kind, "title": "a note"}
    if kind == "enum":
        return {"enum": rng.sample(["a", "é", "北京", 'q"\\', 1, -2.5, True, None, [1, "x"], {"k": "v/w"}], rng.randrange(1, 5))}
    if kind == "const":
        return {"const": rng.choice(["yes", 7, None, {"a": [False]}])}
    if kind == "format":
        return {"type": "string", "format": rng.choice(FORMATS)}
    if kind == "pattern":
        return {"type": "string", "pattern": rng.choice(["^[A-Z]{2,4}-[0-9]{1,3}$", "^(foo|bar)?x$", "^.{2}[^a-y ]$", "^\\d\\w\\S$"])}
    if kind == "several":
        # Each with the keywords that speak of it.
        types = rng.sample(["boolean", "null", "string", "integer", "array"], rng.randrange(2, 6))
        keywords = {"string": {"maxLength": 5}, "integer": {"minimum": 0, "maximum": 99}, "array": {"maxItems": 2, "items": {"type": ["null", "boolean"]}}}
        return {"type": types} | {name: value for one in types for name, value in keywords.get(one, {}).items()}
    if kind == "array":
        least = rng.randrange(3)
        return {"type": "array", "items": inner(), "minItems": least, "maxItems": least + rng.randrange(3)}
    if kind == "tuple":
        return {"type": "array", "prefixItems": [inner() for _ in range(rng.randrange(1, 3))], "items": False}
    if kind == "map":
        return {"type": "object", "additionalProperties": inner(), "maxProperties": rng.randrange(1, 3)}
    if kind == "anyOf":
        return {"anyOf": [inner(), inner()]}
    if kind == "all":
        return {"allOf": [{"type": "object", "properties": {"a": inner(), "z": {"enum": [1, 2, 3]}}, "required": ["a"]}, {"properties": {"z": {"type": "integer", "not": {"const": 2}}, "b": inner()}}]}
    if kind == "either":
        return {"type": "object", "properties": {"a": inner(), "b": inner(), "c": inner()}, rng.choice(["anyOf", "oneOf"]): [{"required": [name]} for name in "abc"[:rng.randrange(2, 4)]]}
    if kind == "if":
        return {"type": "object", "properties": {"k": {"enum": ["x", "y"]}, "n": inner(), "m": inner()}, "required": ["k"], "if": {"properties": {"k": {"const": "x"}}}, "then": {"required": ["n"]},
                "else": {"not": {"required": ["n"]}}, "dependentRequired": {"n": ["m"]}}
    if kind == "set":
        return {"type": "array", "uniqueItems": True, "items": {"enum": rng.sample(["a", "b", 1, 2.5, None], rng.randrange(1, 5))}, "minItems": rng.randrange(2)}
    if kind == "oneOf":
        one = lambda name: {"type": "object", "properties": {"x": inner(), "kind": {"const": name, "type": "string"}}, "required": ["kind"]}
        options = [{"type": "string", "maxLength": 3}, {"type": "integer", "minimum": 0, "maximum": 9}, one("a"), one("b"), one("c")]
        return {"oneOf": rng.sample(options, rng.randrange(2, 5))}
    names = rng.sample(["a", "b b", "ключ", "d/e", "f~"], rng.randrange(1, 4))
    return {"type": "object", "properties": {name: inner() for name in names}, "required": [name for name in names if rng.random() < 0.7]}


def run(flexgen, model, lines, output, *flags, ranks=()):
    ran = subprocess.run([*ranks, flexgen, "run-batch", "--model", model, "-i", lines, "-o", output, "--cpu-memory", "256MiB", "--quiet", *flags], capture_output=True, text=True)
    if ran.returncode not in (0, 3):
        sys.exit(f"run-batch ended with {ran.returncode}: {ran.stderr}")
    return {record["custom_id"]: record for record in map(json.loads, output.read_text().splitlines())}


# What a chat template must show of its form of calls.
CALL_FORMS = {"hermes": "<tool_call>", "llama": '<|start_header_id|>"parameters": ', "mistral": "[TOOL_CALLS]", "mistral-named": "[TOOL_CALLS][ARGS]", "mistral-numbered": "[TOOL_CALLS][CALL_ID][ARGS]",
              "command": "<|START_ACTION|><|END_ACTION|>tool_name", "harmony": "<|start|><|channel|><|message|>", "granite": "<|tool_call|>", "phi": "<|tool_call|><|/tool_call|>",
              "hunyuan": "<tool_calls>[</tool_calls>", "qwen-xml": "<tool_call><function=<parameter=", "seed": "<seed:tool_call><function=<parameter=",
              "minimax": "<minimax:tool_call><invoke name=", "glm": "<tool_call><arg_key><arg_value>"}


def check_calls(jsonschema, options, folder, rng):
    """Forced calls in every form: read as tool_calls whose arguments are valid by the function's own schema, the same under another policy."""
    model = pathlib.Path(options.source) / "demo/model"
    asked = []
    for number in range(max(4, options.count // 8)):
        functions = [{"name": name, "parameters": {"type": "object", "properties": {"x": a_schema(rng, 2), "y": a_schema(rng, 2)}, "required": ["x"]}} for name in ("first", "second")]
        choice = {"type": "function", "function": {"name": "second"}} if number % 3 == 2 else "required"
        asked.append((functions, choice, number % 2 == 0))
    for form, shown in CALL_FORMS.items():
        template, lines = folder / f"{form}.jinja", folder / f"{form}.jsonl"
        template.write_text("{{ messages[0].content }}{{ '' if tools }}{# " + shown + " #}")
        with lines.open("w") as file:
            for i, (functions, choice, parallel) in enumerate(asked):
                body = {"messages": [{"role": "user", "content": "=>"}], "max_tokens": 180, "temperature": 2, "seed": i, "tool_choice": choice, "parallel_tool_calls": parallel,
                        "tools": [{"type": "function", "function": function} for function in functions]}
                file.write(json.dumps({"custom_id": str(i), "method": "POST", "url": "/v1/chat/completions", "body": body}) + "\n")
        flags = ("--chat-template", template)
        answers = run(options.flexgen, model, lines, folder / f"{form}.out", *flags)
        other = run(options.flexgen, model, lines, folder / f"{form}.other", *flags, "--micro-batch-size", "2", "--num-micro-batches", "2")
        calls = cut = refused = 0
        for i, (functions, choice, parallel) in enumerate(asked):
            record = answers[str(i)]
            if record["error"] is not None and form in ("qwen-xml", "seed", "minimax", "glm") and "in this model's form cannot be held" in record["error"]["message"]:
                refused += 1  # a text or another value, of which more is said
                continue
            assert record["error"] is None, f"{form}: {record['error']}: {functions}"
            answer = record["response"]["body"]["choices"][0]
            assert answer == other[str(i)]["response"]["body"]["choices"][0], f"{form}: another policy, another answer"
            if answer["finish_reason"] == "length":
                cut += 1
                assert form != "harmony" or "reasoning_content" in answer["message"] or answer["message"]["content"], answer
                continue
            assert answer["finish_reason"] == "tool_calls" and answer["message"]["content"] is None, f"{form}: {answer}"
            given = answer["message"]["tool_calls"]
            assert given and (parallel and choice == "required" or len(given) == 1), f"{form}: {given}"
            for call in given:
                function = next(one for one in functions if one["name"] == call["function"]["name"])
                assert choice == "required" or function["name"] == "second", f"{form}: {call}"
                jsonschema.Draft202012Validator(function["parameters"]).validate(json.loads(call["function"]["arguments"]))
                calls += 1
        print(f"calls in the form {form}: {calls} valid, {cut} of {len(asked)} answers cut off by max_tokens, {refused} refused")
        # Of harmony most answers of a random model never leave their thoughts.
        assert calls > 0 or form == "harmony", f"{form}: no answer comes to an end"


def check_table(options, folder):
    """A table's fields are judged one by one."""
    table, output, schema = folder / "t.jsonl", folder / "out.jsonl", folder / "s.json"
    schema.write_text(json.dumps({"type": "object", "properties": {"kind": {"enum": ["a", "b"]}, "n": {"type": "integer", "minimum": 0, "maximum": 5}}, "required": ["kind", "n"]}))

    def ask(rows, *flags, code=0):
        table.write_text("".join(json.dumps(row) + "\n" for row in rows))
        ran = subprocess.run([options.flexgen, "map", "--model", pathlib.Path(options.source) / "demo/model", "-i", table, "-o", output, "--prompt-template", "{{ q }} =>", "--json-schema", schema, "--cpu-memory", "256MiB",
                              "--hardware", "generic", "--overwrite", *flags], capture_output=True, text=True)
        assert ran.returncode == code, ran.stderr
        if code != 0:
            return ran.stderr
        return ran.stdout, [json.loads(line) for line in output.read_text().splitlines()]

    rows = [{"q": f"number {number}"} for number in range(4)]
    for row, answered in zip(rows, ask(rows)[1]):
        row["right"] = {"kind": answered["kind"], "n": answered["n"] if row is not rows[0] else 7}
    rows[1]["right"] = json.dumps(rows[1]["right"])
    said = ask(rows, "--answer-column", "right")[0]
    for part in ("kind: accuracy 1.000 (4 of 4)", "n: accuracy 0.750 (3 of 4)", "fields right: 7 of 8"):
        assert part in said, said
    # JSON may have empty lines, so they end none, whatever stands between examples.
    examples = folder / "ex.jsonl"
    examples.write_text(json.dumps({"q": "number 9", "right": {"kind": "a", "n": 1}}) + "\n")
    ask(rows, "--examples", examples, "--shots", "1", "--answer-column", "right")
    assert '"stop"' not in (folder / "out.jsonl.lines.jsonl").read_text(), "empty lines end JSON"
    # What no row could be asked for is refused before any is.
    said = ask(rows, "--output-column", "kind", code=1)
    assert "has a property of this name" in said, said
    schema.write_text(json.dumps({"type": "object", "properties": {"kind": {"type": "string", "format": "iri"}}}))
    said = ask(rows, code=1)
    assert "'format' is not supported" in said and len(said.splitlines()) == 1, said


def text_of(record):
    return record["response"]["body"]["choices"][0]["text"]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("flexgen")
    parser.add_argument("source")
    parser.add_argument("--count", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    schemas = [a_schema(rng) for _ in range(options.count)]
    with tempfile.TemporaryDirectory() as folder:
        jsonschema = pip_module("jsonschema", os.path.join(folder, "pip"), "rfc3339-validator")
        folder = pathlib.Path(folder)
        lines = folder / "in.jsonl"
        with lines.open("w") as file:
            for i, schema in enumerate(schemas):
                # Hot, so that the model is as good as a random one; two ways of asking.
                asked = {"guided_json": schema} if i % 2 else {"response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": schema}}}
                body = {"prompt": "=>", "max_tokens": 180, "temperature": 2, "seed": i, **asked}
                file.write(json.dumps({"custom_id": str(i), "method": "POST", "url": "/v1/completions", "body": body}) + "\n")
        answers = run(options.flexgen, pathlib.Path(options.source) / "demo/model", lines, folder / "a.jsonl")
        other = run(options.flexgen, pathlib.Path(options.source) / "demo/model", lines, folder / "b.jsonl", "--micro-batch-size", "3", "--num-micro-batches", "2")
        # Two stages: the masks travel to the rank that chooses.
        mpirun = shutil.which("mpirun")
        ranks = ["env", *(f"{name}={value}" for name, value in MPI_VARIABLES.items()), mpirun, "-n", "2", "--oversubscribe"] if mpirun else []
        check_calls(jsonschema, options, folder, rng)
        check_table(options, folder)
        staged = run(options.flexgen, pathlib.Path(options.source) / "demo/model", lines, folder / "c.jsonl", ranks=ranks) if mpirun else other
    valid = cut = refused = 0
    for i, schema in enumerate(schemas):
        record = answers[str(i)]
        if record["response"]["status_code"] != 200 if record["response"] else True:
            refused += 1
            print(f"refused: {json.dumps(schema)[:200]}: {record['error'] or record['response']['body']}")
            continue
        assert text_of(record) == text_of(other[str(i)]), f"another policy, another answer: {schema}"
        assert text_of(record) == text_of(staged[str(i)]), f"two stages, another answer: {schema}"
        if record["response"]["body"]["choices"][0]["finish_reason"] == "length":
            cut += 1
            continue
        try:
            value = json.loads(text_of(record))
        except ValueError as error:
            sys.exit(f"no JSON: {error}: {text_of(record)!r}: {schema}")
        jsonschema.Draft202012Validator(schema, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER).validate(value)
        valid += 1
    print(f"{len(schemas)} schemas: {valid} answers valid, {cut} cut off by max_tokens, {refused} refused by name")
    assert valid > len(schemas) * 0.6 and refused == 0, "schemas of these kinds can all be honoured"


main()
