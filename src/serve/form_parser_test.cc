#include "serve/form_parser.h"

#include <gtest/gtest.h>

namespace flexgen::form_parser_test {
namespace {

constexpr std::string_view kPurpose = "--xyz\r\nContent-Disposition: form-data; name=\"purpose\"\r\n\r\nbatch\r\n";

/// "name(file name)=content;" of each part, with the body in pieces of so many bytes.
std::string read(std::string_view body, size_t size, std::string_view boundary = "xyz") {
  std::string said;
  FormParser form(
      boundary, [&](const HttpPart& part) { said += (said.empty() ? "" : ";") + part.name + "(" + part.file_name + ")="; },
      [&](std::string_view piece) { said += piece; });
  for (size_t at = 0; at < body.size(); at += size)
    if (!form.take(body.substr(at, size))) return said + " broken";
  return said + (form.ended() ? "" : " unended");
}

std::string with_file(const std::string& disposition, const std::string& content) {
  return std::string(kPurpose) + "--xyz\r\n" + disposition + "\r\n\r\n" + content + "\r\n--xyz--\r\n";
}

TEST(FormParser, ReadsPartsHoweverTheyAreWrittenAndCut) {
  for (const auto& [disposition, shown] : std::initializer_list<std::pair<std::string, std::string>>{
           {"Content-Disposition: form-data; name=\"file\"; filename=\"a.jsonl\"\r\nContent-Type: text/plain", "file(a.jsonl)"},
           {"Content-Type: text/plain\r\ncontent-disposition:form-data;filename=\"a; b\\\".jsonl\" ; name=file", "file(a; b\".jsonl)"},
           {"Content-Disposition: form-data; name=file; filename=a.jsonl; filename*=utf-8''n%C3%A4me.jsonl", "file(näme.jsonl)"},
           {"Content-Disposition: form-data; name=\"file\"; filename*=UTF-8''n%C3%A4me%zz%4", "file(näme%zz%4)"},
           {"Content-Disposition: form-data; name=\"file\"; filename=a; filename*=latin1''%E4", "file(a)"},
           {"Content-Disposition: form-data; name=\"file\"; filename=\"C:\\dir\\a\"", "file(C:\\dir\\a)"},
           {"Content-Disposition: form-data; name=\"file\"", "file()"}})
    for (const std::string content : {"", "one\r\n--xy\r\n--xyzq\r\n--xyz-\r\n-", "\r\n\r\n"})
      for (const size_t size : {1, 2, 5, 1000}) {
        const std::string body = with_file(disposition, content), wanted = "purpose()=batch;" + shown + "=" + content;
        EXPECT_EQ(read(body, size), wanted) << size;
        EXPECT_EQ(read("before\r\n" + body + "behind", size), wanted) << size;
      }
}

TEST(FormParser, WhatIsNoFormIsTold) {
  for (const size_t size : {1, 1000}) {
    EXPECT_EQ(read(with_file("Content-Type: text/plain", "x"), size), "purpose()=batch broken");
    EXPECT_EQ(read(with_file("Content-Disposition: form-data; filename=a", "x"), size), "purpose()=batch broken");
    EXPECT_EQ(read(with_file("Content-Disposition: attachment; name=a", "x"), size), "purpose()=batch broken");
    EXPECT_EQ(read(std::string(kPurpose) + "--xyz", size), "purpose()=batch unended");
    EXPECT_EQ(read(std::string(kPurpose), size, "other"), " unended");
    EXPECT_EQ(read("--xyz\r\n" + std::string(20'000, 'x'), size), " broken");
    std::string many;
    for (int i = 0; i < 17; ++i) many += kPurpose;
    EXPECT_TRUE(read(many + "--xyz--", size).ends_with(" broken"));
  }
}

TEST(FormParser, TheBoundaryIsAParameterOfTheType) {
  for (const char* type :
       {"multipart/form-data; boundary=xyz", "Multipart/Form-Data;charset=utf-8; Boundary=\"xyz\"", "multipart/form-data; boundary=xyz; charset=UTF-8"})
    EXPECT_EQ(form_boundary(type), "xyz") << type;
  for (const char* type : {"", "application/json; boundary=xyz", "multipart/form-data", "multipart/form-data; boundary=", "multipart/form-data; xboundary=xyz"})
    EXPECT_EQ(form_boundary(type), std::nullopt) << type;
  EXPECT_EQ(form_boundary("multipart/form-data; boundary=" + std::string(71, 'x')), std::nullopt);
}

}  // namespace
}  // namespace flexgen::form_parser_test
