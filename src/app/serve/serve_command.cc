// flexgen serve: an engine that takes what comes.

#include <ctime>
#include <filesystem>
#include <thread>

#include "app/chat_source.h"
#include "app/commands.h"
#include "app/hardware.h"
#include "app/model_folder.h"
#include "app/plan_table.h"
#include "app/progress.h"
#include "app/serve/http_server.h"
#include "app/serve/serve_api.h"
#include "app/serve/serve_load.h"
#include "app/stop_signals.h"
#include "app/team.h"
#include "base/error.h"
#include "base/log.h"
#include "base/report.h"
#include "base/units.h"

namespace flexgen {
namespace {

constexpr std::chrono::milliseconds kStopPoll{100};
constexpr std::chrono::seconds kLastWords{5};  // in which clients may take the end of their answers

/// Ends the server in an orderly way once a signal asks for it: nothing new is taken, what is under way is answered as long as that takes no longer than it may, then given up.
class Doorman {
 public:
  Doorman(const std::atomic<bool>& stop, HttpServer& server, RequestQueue& queue, double patience_s) : stop_(stop), server_(server), queue_(queue), patience_s_(patience_s), thread_([this] { watch(); }) {}
  ~Doorman() {
    ended_ = true;
    thread_.join();
  }

 private:
  void watch() {
    while (!stop_ && !ended_) std::this_thread::sleep_for(kStopPoll);
    if (ended_) return;
    queue_.close();
    server_.stop();
    for (const auto until = std::chrono::steady_clock::now() + std::chrono::duration<double>(patience_s_); !ended_ && std::chrono::steady_clock::now() < until;) std::this_thread::sleep_for(kStopPoll);
    if (!ended_) queue_.abandon("the server ends before the answer is there; ask again");
  }

  const std::atomic<bool>& stop_;
  HttpServer& server_;
  RequestQueue& queue_;
  double patience_s_;
  std::atomic<bool> ended_{false};
  std::thread thread_;
};

ModelLimits limits_of(const ServeOptions& options, const std::string& model, const Engine& engine, int64_t max_positions) {
  ModelLimits limits{engine.model().config().vocab_size, max_positions, engine.tokenizer()};
  add_chat_template(model, options.chat_template, &limits);
  return limits;
}

}  // namespace

int serve_command(const ServeOptions& options) {
  require_alone({}, "serve");
  const std::string model = find_model(options.model, options.engine.model.revision);
  StopSignals signals;
  EngineOptions chosen = engine_options(options.engine, model);
  chosen.needs_tokenizer = false;
  Engine engine(chosen);
  const Workload load = load_to_plan_for(options, engine.model().config(), CacheLayout::page_tokens(engine.model(), engine.kv_dtype()));
  set_hardware(engine, options.engine);
  engine.prepare(load);
  print_note("{}", plan_table(engine));

  RequestQueue queue(options.max_queue);
  const std::string name = options.served_model_name.empty() ? model_name_of(model) : options.served_model_name;
  ServeMetrics metrics(name);
  ServeContext context{limits_of(options, model, engine, load.longest_sequence), name, std::time(nullptr), options.max_body_bytes, options.engine.shares_prefixes(), queue, metrics};
  HttpLimits http;
  http.connections = options.max_connections;
  std::unique_ptr<HttpServer> server;
  ServeApi api(context, options.api_keys, [&] { return server->connections(); });
  server = std::make_unique<HttpServer>(options.host, options.port, http, [&](HttpCall& call) { api.handle(call); }, &ServeApi::refusal);
  if (options.api_keys.empty() && options.host != "127.0.0.1" && options.host != "localhost" && options.host != "::1")
    spdlog::warn("--host {}: whoever reaches this address may use the server; give an --api-key", options.host);
  std::exception_ptr failure;
  std::thread listener([&] {
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
      for (const auto until = std::chrono::steady_clock::now() + kLastWords; server.connections() > 0 && std::chrono::steady_clock::now() < until;) std::this_thread::sleep_for(kStopPoll);
      server.hang_up();
      thread.join();
    }
  } joined{*server, listener};
  // Tests and scripts wait for this line.
  print_note("serving {} on http://{}:{}\n", name, options.host, server->port());
  RunReport report;
  {
    Doorman doorman(signals.stop(), *server, queue, options.shutdown_grace_s);
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
