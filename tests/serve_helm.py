#!/usr/bin/env python3
"""HELM's clients of vLLM servers (PyPI crfm-helm: VLLMClient, VLLMChatClient), unmodified, against flexgen serve: what its scenarios ask (answers with stop sequences, several completions, the best of
some, prompts that are scored), 32 requests at a time, gives the texts and logprobs of run-batch.

The release is 0.5.10: VLLMClient of 0.5.15 and 0.5.16 hands its tokenizer on to the openai client, which refuses it. crfm-helm wants torch, spacy and more, which its clients do not load: it is put into a folder of its own by pip without them, and what the clients load with it; where that cannot be done the test is
skipped (77).

Usage: serve_helm.py FLEXGEN_BINARY SOURCE_DIR"""

import concurrent.futures
import json
import os
import subprocess
import sys
import tempfile

from serve import Server, Test, check, ENGINE

SKIPPED = 77
PIP_S = 200
CLIENT_NEEDS = ["openai~=1.70", "filelock", "zstandard", "tqdm", "pyhocon", "pyyaml", "colorlog", "sqlitedict", "retrying", "dacite", "requests"]


def install(folder):
    """Both lists in one folder; ends the test where it cannot be had."""
    pip = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--timeout", "15", "--retries", "1", "--target", folder]
    for packages in (["--no-deps", "crfm-helm==0.5.10"], CLIENT_NEEDS):
        try:
            done = subprocess.run([*pip, *packages], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, timeout=PIP_S, text=True)
            why = None if done.returncode == 0 else done.stdout.strip().splitlines()[-1:]
        except subprocess.TimeoutExpired as error:
            why = [str(error)]
        if why is not None:
            print(f"serve_helm.py: skipped, as crfm-helm of PyPI cannot be had: {why}")
            sys.exit(SKIPPED)
    sys.path.insert(0, folder)


def greedy_requests(Request):
    """As scenarios ask: a few words, the answer's first token with its rivals, a letter, a prompt that is scored with nothing after it."""
    words = "the quick brown fox jumps over a lazy dog while seven wizards count coins".split()
    common = " ".join(words * 3)
    for number in range(48):
        prompt = f"{common} {' '.join(words[:number % 12 + 1])} {number}"
        kind = number % 4
        yield Request(model="vllm/model", model_deployment="vllm/model", prompt=prompt, temperature=0.0, max_tokens=[12, 1, 5, 0][kind], top_k_per_token=[1, 5, 1, 1][kind], stop_sequences=[["e"], [], ["\n", "a"], []][kind],
                      echo_prompt=kind == 3)


def answers_of_batch(test, client, requests):
    asked, output = test.path("helm.jsonl"), test.path("helm.out")
    with open(asked, "w") as file:
        for number, request in enumerate(requests):
            file.write(json.dumps({"custom_id": str(number), "method": "POST", "url": "/v1/completions", "body": client._to_raw_completion_request(request)}) + "\n")
    test.flexgen("run-batch", "-m", test.model, "-i", asked, "-o", output, "--in-order", *ENGINE)
    with open(output) as file:
        return [json.loads(line)["response"]["body"]["choices"][0] for line in file]


def completions(test, server):
    from helm.clients.vllm_client import VLLMClient
    from helm.common.cache import BlackHoleCacheConfig
    from helm.common.request import Request

    client = VLLMClient(tokenizer=None, tokenizer_name="model", cache_config=BlackHoleCacheConfig(), base_url=f"http://127.0.0.1:{server.port}/v1", vllm_model_name="model")
    requests = list(greedy_requests(Request))
    expected = answers_of_batch(test, client, requests)
    with concurrent.futures.ThreadPoolExecutor(32) as pool:
        results = list(pool.map(client.make_request, requests))
    for request, result, choice in zip(requests, results, expected):
        check(result.success, f"{request}: {result.error}")
        [completion] = result.completions
        tokens = list(zip(choice["logprobs"]["tokens"], choice["logprobs"]["token_logprobs"]))
        # The client takes off the tokens from a stop sequence on, and finds nothing of it in the text.
        ends = [] if request.echo_prompt else [number for number, (text, _) in enumerate(tokens) if text.startswith((*request.stop_sequences, "<|endoftext|>"))]
        tokens = tokens[:min(ends, default=len(tokens))]
        check(completion.text == choice["text"], f"{request}: {completion} is not {choice}")
        check([(token.text, token.logprob) for token in completion.tokens] == [(text, logprob or 0) for text, logprob in tokens], f"{request}: {completion} is not {choice}")
    for asked in ({"num_completions": 3, "temperature": 0.8}, {"num_completions": 2, "top_k_per_token": 4, "temperature": 1.0, "top_p": 0.9, "presence_penalty": 0.5, "frequency_penalty": 0.5}):
        result = client.make_request(Request(model="vllm/model", prompt="seven wizards", max_tokens=6, **asked))
        check(result.success and len(result.completions) == asked["num_completions"] and all(completion.tokens for completion in result.completions), result)
    refused = client.make_request(Request(model="vllm/model", prompt="x", max_tokens=100000))
    check(not refused.success and "max_tokens" in refused.error, refused)


def conversations(server):
    from helm.benchmark.model_metadata_registry import TEXT_MODEL_TAG, ModelMetadata, register_model_metadata
    from helm.clients.vllm_client import VLLMChatClient
    from helm.common.cache import BlackHoleCacheConfig
    from helm.common.request import Request
    from helm.tokenizers.simple_tokenizer import SimpleTokenizer

    register_model_metadata(ModelMetadata(name="vllm/model", display_name="model", description="", access="open", creator_organization_name="x", release_date=None, tags=[TEXT_MODEL_TAG]))
    client = VLLMChatClient(tokenizer=SimpleTokenizer(), tokenizer_name="simple", cache_config=BlackHoleCacheConfig(), base_url=f"http://127.0.0.1:{server.port}/v1", vllm_model_name="model")
    for asked in ({"prompt": "Hi"}, {"messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "Hi"}]}):
        result = client.make_request(Request(model="vllm/model", temperature=0.0, max_tokens=8, stop_sequences=["\n"], **asked))
        check(result.success and len(result.completions) == 1, result)
        messages = asked.get("messages") or [{"role": "user", "content": "Hi"}]
        whole = server.ask("/v1/chat/completions", {"messages": messages, "temperature": 0, "max_tokens": 8, "stop": ["\n"]})
        # It counts tokens by a tokenizer of its own, here one of characters, and takes off what is above max_tokens.
        check(result.completions[0].text == whole["choices"][0]["message"]["content"][:8], f"{result} is not {whole}")


def main():
    with tempfile.TemporaryDirectory() as work:
        install(os.path.join(work, "pip"))
        os.environ["HF_HUB_OFFLINE"] = "1"
        test = Test(sys.argv[1], sys.argv[2], work)
        with Server(test.binary, test.model, "--max-num-seqs", "24") as server:
            completions(test, server)
            conversations(server)
    print("serve_helm.py: all holds")


if __name__ == "__main__":
    main()
