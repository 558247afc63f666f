// flexgen serve: an engine that takes what comes.

#include <fcntl.h>
#include <malloc.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <ctime>
#include <thread>

#include "base/error.h"
#include "base/log.h"
#include "base/report.h"
#include "base/thread.h"
#include "base/units.h"
#include "batch/batch_fields.h"
#include "batch/batch_model.h"
#include "cli/commands.h"
#include "cli/plan_table.h"
#include "cli/progress.h"
#include "cli/stop_signals.h"
#include "serve/batch_desk.h"
#include "serve/file_calls.h"
#include "serve/http_server.h"
#include "serve/lent_runner.h"
#include "serve/serve_api.h"
#include "serve/serve_load.h"
#include "setup/hardware.h"
#include "setup/model_folder.h"
#include "setup/team.h"

namespace flexgen {
namespace {

constexpr std::chrono::milliseconds kStopPoll{100};
constexpr int kReturnedBytes = 1 << 20;
constexpr int64_t kBodiesHeld = 4;             // of the greatest length, at a time
constexpr std::chrono::seconds kLastWords{5};  // in which clients may take the end of their answers

/// Ends the server in an orderly way once a signal asks for it: nothing new is taken, what is under way is answered as long as that takes no longer than it may, then given up.
class Doorman {
 public:
  /// `stops`: called once the signal has come.
  Doorman(const std::atomic<bool>& stop, HttpServer& server, RequestQueue& queue, double patience_s, std::function<void()> stops)
      : stop_(stop), server_(server), queue_(queue), patience_s_(patience_s), stops_(std::move(stops)),
        thread_(start_thread("the end of the server", [this] { watch(); })) {}
  ~Doorman() {
    ended_ = true;
    thread_.join();
  }

 private:
  void watch() {
    while (!stop_ && !ended_) std::this_thread::sleep_for(kStopPoll);
    if (ended_) return;
    stops_();
    queue_.close();
    server_.stop();
    for (const auto until = std::chrono::steady_clock::now() + std::chrono::duration<double>(patience_s_); !ended_ && std::chrono::steady_clock::now() < until;)
      std::this_thread::sleep_for(kStopPoll);
    if (!ended_) queue_.abandon("the server ends before the answer is there; ask again");
  }

  const std::atomic<bool>& stop_;
  HttpServer& server_;
  RequestQueue& queue_;
  double patience_s_;
  std::function<void()> stops_;
  std::atomic<bool> ended_{false};
  std::thread thread_;
};

/// The folder of --state; nobody else may use it meanwhile.
class StateLock {
 public:
  explicit StateLock(const std::string& directory) {
    make_state_folder(directory);
    descriptor_ = ::open((directory + "/lock").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (descriptor_ < 0) fail_user("--state {}: cannot be written: {}", directory, std::strerror(errno));
    if (::flock(descriptor_, LOCK_EX | LOCK_NB) == 0) return;
    ::close(descriptor_);
    fail_user("--state {}: another server uses it; end that one, or give another folder", directory);
  }
  ~StateLock() { ::close(descriptor_); }
  StateLock(const StateLock&) = delete;
  StateLock& operator=(const StateLock&) = delete;

 private:
  int descriptor_ = -1;
};

/// What lies in the folder of --state.
struct State {
  State(const std::string& directory, BatchDesk::Answer answer, const std::string& model)
      : files(directory + "/files"), batches(directory + "/batches", files, std::move(answer), model) {}
  FileStore files;
  BatchDesk batches;
};

/// Who gives tools would take a call for an answer in words.
void warn_of_unread_calls(const ModelLimits& limits, const std::string& name) {
  Conversation with_tools;
  with_tools.tools = jinja::make_list({});
  if (limits.chat && limits.chat->call_form() == CallForm::kNone && limits.chat->mentions(with_tools, "tools"))
    spdlog::warn("{}: the chat template takes tools, and writes calls in a form that is not read: a model's calls stay in the content of answers", name);
}

/// How a batch is answered: as a job of run-batch, by an engine that is there already.
BatchDesk::Answer answer_by(RequestQueue& queue, const ServeOptions& options, const std::string& folder, const std::string& name, const EngineOptions& chosen,
                            const Engine& engine, const ModelLimits& limits) {
  RunBatchOptions job;
  job.model = folder;
  job.served_model_name = name;
  job.chat_template = options.chat_template;
  job.engine = options.engine;
  BatchModel model = batch_model_of(job, chosen, engine);
  model.limits = limits;
  model.options[kMaxModelLen] = std::to_string(limits.max_positions);  // which lines are refused, and how long answers get, goes by it
  if (engine.device()) model.options[kAttentionOn] = engine.policy().attention_beside() ? "cpu" : "gpu";
  return [&queue, model, shares = options.engine.shares_prefixes()](const BatchDesk::Work& work, const std::atomic<bool>& stop) {
    BatchModel of_endpoint = model;
    of_endpoint.limits.endpoint = work.endpoint == "/v1/completions" ? Endpoint::kText : Endpoint::kChat;
    of_endpoint.limits.model = work.model;
    BatchFiles files{work.input, work.output};
    files.error_output = work.errors;
    files.share_prefixes = shares;
    files.before_start = work.begun;
    files.progress = work.progress;
    LentRunner runner(queue);
    return run_batch(files, of_endpoint, runner, stop);
  };
}

}  // namespace

int serve_command(const ServeOptions& options) {
  require_alone({}, "serve");
  // What is made of a long body goes back to the system once it is done with, whichever thread did it.
  mallopt(M_MMAP_THRESHOLD, kReturnedBytes);
  const std::string model = find_model(options.model, options.engine.model.revision);
  StopSignals signals("ending: no new calls are taken, and those under way may be finished within --shutdown-grace seconds; once more to end at once");
  std::optional<StateLock> lock;
  if (!options.state_directory.empty()) lock.emplace(options.state_directory);
  EngineOptions chosen = engine_options(options.engine, model);
  chosen.needs_tokenizer = false;
  std::optional<StopSignals::AtOnce> at_once(std::in_place, kExitDone);
  Engine engine(chosen);
  const Workload load = load_to_plan_for(options, engine.model().config(), CacheLayout::page_tokens(engine.model(), engine.kv_dtype()));
  set_hardware(engine, options.engine);
  engine.prepare(load);
  at_once.reset();
  print_note("{}", server_plan_table(engine));

  RequestQueue queue(options.max_queue);
  const std::string name = options.served_model_name.empty() ? model_name_of(model) : options.served_model_name;
  ServeMetrics metrics(name);
  ModelLimits limits = limits_of(model, options.chat_template, engine.model().config(), engine.tokenizer());
  limits.max_positions = load.longest_sequence;
  limits.max_logprob_ids = kMostLogprobs;
  warn_of_unread_calls(limits, name);
  ServeContext context{std::move(limits), name, std::time(nullptr), options.max_body_bytes, options.engine.shares_prefixes(), queue, metrics};
  HttpLimits http;
  http.connections = options.max_connections;
  http.body_bytes = kBodiesHeld * options.max_body_bytes;
  http.turn_bytes = options.max_body_bytes;
  std::optional<State> state;
  std::optional<FileCalls> files;
  if (!options.state_directory.empty()) {
    state.emplace(options.state_directory, answer_by(queue, options, model, name, chosen, engine, context.limits), name);
    files.emplace(FileCalls{state->files, state->batches, options.max_file_bytes});
  }
  std::unique_ptr<HttpServer> server;
  ServeApi api(
      context, options.api_keys, [&] { return server->connections(); }, files ? &*files : nullptr);
  server = std::make_unique<HttpServer>(
      options.host, options.port, http, [&](HttpCall& call) { api.handle(call); }, &ServeApi::refusal);
  if (options.api_keys.empty() && options.host != "127.0.0.1" && options.host != "localhost" && options.host != "::1")
    spdlog::warn("--host {}: whoever reaches this address may use the server; give an --api-key", options.host);
  std::exception_ptr failure;
  RunReport report;
  {
    std::thread listener = start_thread("taking connections", [&] {
      try {
        server->run();
      } catch (...) {
        failure = std::current_exception();
        queue.abandon("the server's socket has failed");
      }
    });
    struct Joined {
      HttpServer& server;
      std::thread& thread;
      ~Joined() {
        server.stop();
        for (const auto until = std::chrono::steady_clock::now() + kLastWords; server.connections() > 0 && std::chrono::steady_clock::now() < until;)
          std::this_thread::sleep_for(kStopPoll);
        server.hang_up();
        thread.join();
      }
    } joined{*server, listener};
    // Tests and scripts wait for this line.
    print_note("serving {} on http://{}:{}\n", name, options.host.find(':') == std::string::npos ? options.host : "[" + options.host + "]", server->port());
    Doorman doorman(signals.stop(), *server, queue, options.shutdown_grace_s, [&] {
      if (state) state->batches.stop();
    });
    const std::atomic<bool> never{false};
    try {
      report = engine.run(queue, queue, never);
      queue.engine_ended("the server has ended");
    } catch (const std::exception& error) {
      queue.engine_ended(fmt::format("the engine has failed: {}", error.what()));
      throw;
    }
  }
  if (failure) std::rethrow_exception(failure);
  if (report.sequences > 0) print_note("{}", report_table(report));
  return kExitDone;
}

}  // namespace flexgen
