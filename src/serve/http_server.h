#pragma once
// HttpServer: HTTP/1.1 on a socket, one thread a connection, with bounds on all that a client can make it hold or wait for. By cpp-httplib, a heavy header: http_server.cc alone
// includes it. The handler is called from the connections' threads.

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "serve/body_room.h"
#include "serve/http_part.h"

namespace flexgen {

/// What one client, and all of them, may take of the server.
struct HttpLimits {
  int64_t connections = 1024;       ///< at a time; further ones wait to be accepted
  int64_t header_bytes = 64 << 10;  ///< of a request, all of them together
  double read_s = 60;               ///< for the headers, and a megabyte of the body
  double write_s = 60;              ///< a client that takes nothing for so long is gone
  double idle_s = 15;               ///< between two requests of a connection
  int64_t body_bytes = 32 << 20;    ///< of all bodies that are received or wait for their turn, at a time
  int64_t turn_bytes = 8 << 20;     ///< of those whose turn it is
};

/// Writes a piece; false: the client is gone.
using HttpWrite = std::function<bool(std::string_view)>;
/// Whether the client has hung up; asks the socket, does not wait.
using HttpGone = std::function<bool()>;

/// A body, and its turn to be read: that ends with it. Bodies of a few KiB need none.
struct HttpBody {
  BodyRoom::Lease received, turn;
  std::string text;
};

/// One request, and its answer. Valid until the handler returns.
class HttpCall {
 public:
  virtual ~HttpCall() = default;
  virtual const std::string& method() const = 0;
  virtual const std::string& path() const = 0;  ///< without the query
  /// Empty: there is none.
  virtual std::string header(const std::string& name) const = 0;
  virtual std::string query(const std::string& name) const = 0;
  /// A name of the query that is not among `known`, or comes twice; empty: there is none.
  virtual std::string wrong_query(const std::vector<std::string>& known) const = 0;
  /// The whole body. Throws ApiError: 413 if it is longer than `most_bytes`, 429 if others have the room for it, 400 if the client does not send it whole, 408 if not in time. Holds up
  /// other bodies, so whoever calls it lets go of what it gives before it waits for anything.
  virtual HttpBody body(int64_t most_bytes) = 0;
  /// The same as a form of parts: calls `part` where one begins, and `piece` for what it holds. False if it is no form.
  virtual bool form(int64_t most_bytes, const std::function<void(const HttpPart&)>& part, const std::function<void(std::string_view)>& piece) = 0;
  virtual bool gone() const = 0;

  virtual void answer(int status, const std::string& type, std::string body, const std::vector<std::pair<std::string, std::string>>& headers = {}) = 0;
  /// Status 200, and what `run` writes. It is called once, after the handler has returned; not at all where the server ends by then. It is gone once the call is over.
  virtual void stream(const std::string& type, std::function<void(const HttpWrite&, const HttpGone&)> run) = 0;
};

class HttpServer {
 public:
  /// `own_errors`: the body for what is refused before a handler sees it, as JSON.
  /// Binds. Throws Error{user} if that is not possible. Port 0: any that is free.
  HttpServer(const std::string& host, int port, const HttpLimits& limits, std::function<void(HttpCall&)> handler,
             std::function<std::string(int status)> own_errors);
  ~HttpServer();
  int port() const { return port_; }
  /// Until stop(), and all connections have ended.
  void run();
  /// Accepts no more; idle connections end. Any thread; run() must have been called, or be about to.
  void stop();
  /// After stop(): ends the connections that are left.
  void hang_up();
  int64_t connections() const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
  int port_ = 0;
};

}  // namespace flexgen
