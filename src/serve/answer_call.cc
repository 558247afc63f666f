#include "serve/answer_call.h"

#include <ctime>
#include <memory>

#include "base/error.h"
#include "batch/batch_output.h"
#include "batch/best_choices.h"
#include "serve/answer_stream.h"
#include "serve/api_error.h"
#include "serve/new_id.h"

namespace flexgen {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::milliseconds kLook{250};  // in which a client that hangs up is noticed

/// Sequences of a prompt that are the same, as nothing is drawn, are computed once.
int64_t copies_of(const BatchRequest& request) { return request.draws() ? 1 : request.best_of; }
int64_t computed_per_prompt(const BatchRequest& request) { return request.best_of / copies_of(request); }

std::shared_ptr<Ticket> submit(const BatchRequest& request, ServeContext& context, bool follows) {
  const int64_t copies = copies_of(request);
  const auto sequence = [&](int64_t index) {
    Request sequence = request.sequence(index * copies);
    // What calls have in common is not known before they come: each keeps its prompt for those that may.
    if (context.shares_prefixes) sequence.shared_tokens = std::ssize(sequence.prompt);
    return sequence;
  };
  return context.queue.submit(request.num_sequences() / copies, sequence, follows);
}

struct Timer {
  Clock::time_point start = Clock::now();
  void count(const Ticket& ticket, ServeMetrics& metrics) const {
    const auto now = Clock::now();
    const auto seconds = [&](Clock::time_point until) { return std::chrono::duration<double>(until - start).count(); };
    metrics.count_call(seconds(ticket.first_token().value_or(now)), seconds(now));
  }
};

std::string body_of(const CallBody& call, const RecordContext& record, const RecordId& id, std::span<const Completion> completions) {
  const BatchRequest& request = call.request;
  const int64_t copies = copies_of(request), per_prompt = computed_per_prompt(request);
  LineUsage usage;
  std::vector<float> means;
  for (int64_t i = 0; i < std::ssize(completions); ++i) {
    const Completion& completion = completions[static_cast<size_t>(i)];
    if (i % per_prompt == 0) {
      usage.prompt_tokens += std::ssize(request.prompts[static_cast<size_t>(i / per_prompt)].tokens);
      usage.cached_tokens += completion.cached_tokens;
    }
    usage.completion_tokens += copies * std::ssize(completion.tokens);
    if (request.chooses()) means.insert(means.end(), static_cast<size_t>(copies), mean_logprob(completion));
  }
  std::vector<int64_t> picked = best_choices(request, means);
  if (picked.empty())
    for (int64_t i = 0; i < request.num_sequences(); ++i) picked.push_back(i);
  AnswerFrame frame = body_frame(record, id, request, usage);
  std::string body = std::move(frame.before);
  for (int64_t index = 0; index < std::ssize(picked); ++index) {
    const int64_t sequence = picked[static_cast<size_t>(index)];
    if (index > 0) body += ',';
    write_choice(record, request, request.prompts[static_cast<size_t>(sequence / request.best_of)], completions[static_cast<size_t>(sequence / copies)], index,
                 [&](std::string_view piece) { body += piece; });
  }
  return body + frame.after;
}

void count_sequence(const Completion& completion, ServeMetrics& metrics, int64_t prompt_tokens) {
  metrics.count_sequence(completion.reason == FinishReason::kStop ? "stop" : "length", prompt_tokens, completion.cached_tokens, std::ssize(completion.tokens));
}

/// Logits that are not finite are the model's fault; that nothing can be chosen, the request's.
ApiError no_answer(const BatchRequest& request, const Completion& completion, int64_t sequence) {
  const LineError error = no_answer_error(request, completion, sequence);
  return {completion.reason == FinishReason::kDeadEnd ? 400 : 500, error.message, error.code};
}

void answer_whole(HttpCall& call, const CallBody& body, const RecordContext& record, const RecordId& id, ServeContext& context) {
  const Timer timer;
  const std::shared_ptr<Ticket> ticket = submit(body.request, context, false);
  std::vector<Completion> completions(static_cast<size_t>(body.request.num_sequences() / copies_of(body.request)));
  while (!ticket->over()) {
    for (AnswerPiece& piece : ticket->wait(kLook)) completions[static_cast<size_t>(piece.sequence)] = std::move(piece.completion);
    if (const std::string failure = ticket->failure(); !failure.empty()) throw ApiError{503, failure, "shutting_down"};
    if (!call.gone()) continue;
    ticket->cancel();
    context.metrics.count_hung_up();
    throw ApiError{499, "the client has hung up", "client_gone"};
  }
  const int64_t per_prompt = computed_per_prompt(body.request);
  for (int64_t i = 0; i < std::ssize(completions); ++i) {
    const Completion& completion = completions[static_cast<size_t>(i)];
    if (has_no_answer(completion.reason)) throw no_answer(body.request, completion, i);
    count_sequence(completion, context.metrics, std::ssize(body.request.prompts[static_cast<size_t>(i / per_prompt)].tokens));
  }
  timer.count(*ticket, context.metrics);
  call.answer(200, "application/json", body_of(body, record, id, completions));
}

/// With the last of it what nobody has read to its end is given up, also where its stream never began (the server ends) or broke off.
std::shared_ptr<void> gives_up_unread(const std::shared_ptr<Ticket>& ticket, ServeMetrics& metrics) {
  return {nullptr, [ticket, &metrics](void*) {
            if (ticket->over() || ticket->cancelled() || !ticket->failure().empty()) return;
            ticket->cancel();
            metrics.count_hung_up();
          }};
}

void answer_in_pieces(HttpCall& call, CallBody&& given, const RecordContext& record, const RecordId& id, ServeContext& context) {
  const Timer timer;
  auto body = std::make_shared<CallBody>(std::move(given));
  const BatchRequest& request = body->request;
  if (request.chooses())
    throw ApiError{400, "best_of: with stream all sequences are choices, so it cannot be more than n; lower it, or leave stream out", "invalid_value",
                   "best_of"};
  const std::shared_ptr<Ticket> ticket = submit(request, context, true);
  const std::shared_ptr<void> reader = gives_up_unread(ticket, context.metrics);
  call.stream("text/event-stream", [&context, ticket, reader, body, record, id, timer](const HttpWrite& write, const HttpGone& gone) {
    AnswerStream stream(record, id, *body, copies_of(body->request), write);
    while (!ticket->over() && stream.writes()) {
      const std::vector<AnswerPiece> pieces = ticket->wait(kLook);
      for (const AnswerPiece& piece : pieces) {
        if (piece.ended && has_no_answer(piece.completion.reason)) {
          stream.fail(no_answer(body->request, piece.completion, piece.sequence));
          ticket->cancel();
          return;
        }
        stream.add(piece);
      }
      if (const std::string failure = ticket->failure(); !failure.empty()) {
        stream.fail(ApiError{503, failure, "shutting_down"});
        return;
      }
      if (pieces.empty()) stream.stay_alive();
      if (gone()) break;
    }
    if (!ticket->over() || !stream.writes()) {
      ticket->cancel();
      context.metrics.count_hung_up();
      return;
    }
    stream.finish();
    for (const AnswerStream::Total& total : stream.totals())
      context.metrics.count_sequence(total.reason, total.prompt_tokens, total.cached_tokens, total.generated_tokens);
    timer.count(*ticket, context.metrics);
  });
}

}  // namespace

ModelLimits limits_now(const ServeContext& context) {
  ModelLimits limits = context.limits;
  limits.now = std::time(nullptr);
  return limits;
}

void check_model(const ServeContext& context, const std::string& model) {
  if (!model.empty() && model != context.model_name)
    throw ApiError{404, fmt::format("the model '{}' is not here; this server has '{}'", model.substr(0, 200), context.model_name), "model_not_found", "model"};
}

void answer_call(HttpCall& call, Endpoint endpoint, ServeContext& context) {
  const RecordId id = new_record_id();
  auto parsed = parse_call_body(call.body(context.most_body_bytes).text, endpoint, record_id_text(id), limits_now(context));
  if (const LineError* error = std::get_if<LineError>(&parsed)) throw api_error_of(*error);
  CallBody& body = std::get<CallBody>(parsed);
  check_model(context, body.model);
  const RecordContext record{context.model_name, std::time(nullptr), context.limits.tokenizer};
  if (body.stream) answer_in_pieces(call, std::move(body), record, id, context);
  else answer_whole(call, body, record, id, context);
}

}  // namespace flexgen
