#!/usr/bin/env python3
"""Makes messy invoice lines and the fields that are in them. Standard library only.

    python3 demo/invoice_records.py --seed 7 --count 300 --requests requests.jsonl --expected expected.jsonl

writes an OpenAI batch file and the right answers; --task FILE writes both as `flexgen eval --task` reads them. train_demo_model.py learns from the same generator, with other seeds.
"""
import argparse
import json
import os
import random

MONTHS = "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split()
SYLLABLES = ("ba be bo ca ce co da de do du fa fe fi ga go ha he hi jo ka ke ki ko la le li lo lu ma me mi mo mu na ne ni no "
             "pa pe pi po ra re ri ro ru sa se si so su ta te ti to tu va ve vi vo wa we wi za ze zo bar ber cor dan den fer gar "
             "hol kar lan len mar mer nor par por ran ren sol sten tal ten tor van ver win").split()
TRADES = "Supplies Metals Foods Print Logistics Paper Energy Tools Glass Textil Pharma Media Systems Cargo Office".split()
FORMS = "GmbH Ltd Inc SA LLC AG Oy BV".split()
SIGNS = {"EUR": "€", "USD": "$", "GBP": "£"}
CURRENCIES = ["EUR", "USD", "GBP", "CHF"]


def vendor(rng):
    name = "".join(rng.choice(SYLLABLES) for _ in range(rng.randint(2, 3))).capitalize()
    parts = [name]
    if rng.random() < 0.7:
        parts.append(rng.choice(TRADES))
    if rng.random() < 0.8:
        parts.append(rng.choice(FORMS))
    return " ".join(parts)


def invoice_number(rng):
    digits = lambda n: "".join(rng.choice("0123456789") for _ in range(n))
    return rng.choice([
        lambda: digits(4) + "-" + digits(3), lambda: "INV" + digits(5), lambda: digits(6),
        lambda: rng.choice("ABKRX") + "/" + digits(4), lambda: "RE-" + digits(4)])()


def date(rng):
    year, month, day = rng.randint(2015, 2026), rng.randint(1, 12), rng.randint(1, 28)
    name = MONTHS[month - 1]
    text = rng.choice([
        f"{day} {name} {year}", f"{name} {day}, {year}", f"{year}-{month:02}-{day:02}", f"{day:02}.{month:02}.{year}",
        f"{day:02}/{name}/{year % 100}"])
    return text, f"{year}-{month:02}-{day:02}"


def amount(rng):
    units, cents = int(10 ** rng.uniform(0.7, 5)), rng.randint(0, 99)
    currency = rng.choice(CURRENCIES)
    grouped = f"{units:,}"
    text = rng.choice([f"{grouped}.{cents:02}", f"{units}.{cents:02}", grouped.replace(",", ".") + f",{cents:02}"])
    sign = SIGNS.get(currency)
    if sign and rng.random() < 0.4:
        text = sign + text
    else:
        text = rng.choice([f"{currency} {text}", f"{text} {currency}"])
    return text, currency, f"{units}.{cents:02}"


def record(rng):
    """One (line, fields)."""
    name, number = vendor(rng), invoice_number(rng)
    when_text, when = date(rng)
    sum_text, currency, total = amount(rng)
    parts = [
        rng.choice(["from ", "", "vendor: ", "by ", "Supplier "]) + name,
        rng.choice(["invoice no. ", "Inv. ", "INVOICE ", "#", "inv no ", "Rechnung "]) + number,
        rng.choice(["dated ", "", "date: ", "of ", "on "]) + when_text,
        rng.choice(["total ", "", "Sum: ", "amount due ", "TOTAL "]) + sum_text]
    rng.shuffle(parts)
    if rng.random() < 0.3:
        parts.insert(rng.randint(0, 4), rng.choice(["net 30d", "paid", "copy", "2nd notice", "p. 1/2"]))
    line = rng.choice([" ", ", ", " | ", "; ", "  "]).join(parts)
    return line, {"vendor": name, "invoice": number, "date": when, "currency": currency, "total": total}


def prompt_of(line):
    return line + "\n=>"


def answer_of(fields):
    return json.dumps(fields, separators=(",", ":"), ensure_ascii=False)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--requests", default=os.devnull)
    parser.add_argument("--expected", default=os.devnull)
    parser.add_argument("--task", default=os.devnull)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    with open(args.requests, "w") as requests, open(args.expected, "w") as expected, open(args.task, "w") as task:
        for i in range(args.count):
            line, fields = record(rng)
            task.write(json.dumps({"prompt": prompt_of(line), "answer": answer_of(fields)}, ensure_ascii=False) + "\n")
            body = {"model": "demo-invoice", "prompt": prompt_of(line), "max_tokens": 96, "temperature": 0}
            requests.write(json.dumps({"custom_id": f"line-{i:05}", "method": "POST", "url": "/v1/completions", "body": body},
                                      ensure_ascii=False) + "\n")
            expected.write(json.dumps({"custom_id": f"line-{i:05}", "fields": fields}, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
