/** Queries: columns, filters, order, counts, embedding, and what a query that cannot be is told. */
import assert from "node:assert/strict";
import test from "node:test";
import { answer, refused, service } from "./clients.mjs";
import { ada, books, borges, leGuin, names, titles, user } from "./library.mjs";

test("columns renamed, cast and taken out of JSON", async () => {
  const columns = "who:name, n:facts->n, city:facts->city->>name, text:stars::text, first:tags->0";
  const row = answer(await ada.from("authors").select(columns).eq("id", leGuin.id).single());
  assert.deepEqual(row, { who: leGuin.name, n: 1, city: "Portland", text: "3", first: "sf" });
});

test("filters that compare", async () => {
  assert.deepEqual(await titles(books().eq("pages", 184)), ["The Lathe of Heaven"]);
  assert.deepEqual(await titles(books().neq("pages", 184)), ["The Dispossessed"]);
  assert.deepEqual(await titles(books().gt("pages", 184).lte("pages", 341)), ["The Dispossessed"]);
  assert.deepEqual(await titles(books().gte("pages", 184).lt("pages", 341)), ["The Lathe of Heaven"]);
  assert.deepEqual(await titles(books().match({ pages: 184, title: "The Lathe of Heaven" })), ["The Lathe of Heaven"]);
  assert.deepEqual(await titles(books().isDistinct("pages", 184)), ["Ficciones", "The Dispossessed"]);
});

test("filters is, in and their opposites", async () => {
  assert.deepEqual(await titles(books().is("pages", null)), ["Ficciones"]);
  assert.deepEqual(await titles(books().not("pages", "is", null).gt("pages", 200)), ["The Dispossessed"]);
  assert.deepEqual(await titles(books().in("title", ["Ficciones", "no, (none)"])), ["Ficciones"]);
  assert.deepEqual(await titles(books().in("pages", [])), []);
  assert.deepEqual(await titles(books().notIn("pages", [184])), ["The Dispossessed"]);
  assert.deepEqual(await titles(books().not("pages", "in", "(184,1)")), ["The Dispossessed"]);
});

test("filters by pattern", async () => {
  assert.deepEqual(await titles(books().like("title", "The%")), ["The Dispossessed", "The Lathe of Heaven"]);
  assert.deepEqual(await titles(books().ilike("title", "%HEAVEN")), ["The Lathe of Heaven"]);
  assert.deepEqual(await titles(books().not("title", "like", "The%")), ["Ficciones"]);
  assert.deepEqual(await titles(books().likeAllOf("title", ["The%", "%of%"])), ["The Lathe of Heaven"]);
  assert.deepEqual(await titles(books().ilikeAnyOf("title", ["ficc%", "%heaven"])), [
    "Ficciones",
    "The Lathe of Heaven",
  ]);
  assert.deepEqual(await titles(books().regexMatch("title", "^Fic+")), ["Ficciones"]);
  assert.deepEqual(await titles(books().regexIMatch("title", "^the d")), ["The Dispossessed"]);
  assert.deepEqual(await titles(books().filter("title", "imatch", "heaven$")), ["The Lathe of Heaven"]);
});

test("filters joined by or, and, not", async () => {
  const either = books().or("pages.eq.184,and(pages.gt.300,title.like.*D*),title.in.(none)");
  assert.deepEqual(await titles(either), ["The Dispossessed", "The Lathe of Heaven"]);
  assert.deepEqual(await titles(books().or("pages.is.null,not.and(pages.gt.1,pages.lt.200)")), [
    "Ficciones",
    "The Dispossessed",
  ]);
  const quoted = `title.eq."The Dispossessed",author_id.eq.${borges.id}`;
  assert.deepEqual(await titles(books().or(quoted)), ["Ficciones", "The Dispossessed"]);
});

test("filters on arrays, JSON and ranges", async () => {
  const authors = () => ada.from("authors").select("name").in("id", [leGuin.id, borges.id]);
  assert.deepEqual(await names(authors().contains("tags", ["sf"])), ["Le Guin"]);
  assert.deepEqual(await names(authors().containedBy("tags", ["essay"])), ["Borges"]);
  assert.deepEqual(await names(authors().overlaps("tags", ["sf", "essay"])), ["Borges", "Le Guin"]);
  assert.deepEqual(await names(authors().contains("facts", { city: { name: "Portland" } })), ["Le Guin"]);
  assert.deepEqual(await names(authors().not("tags", "cs", "{sf}")), ["Borges"]);
  assert.deepEqual(await names(authors().eq("facts->city->>name", "Portland")), ["Le Guin"]);
  assert.deepEqual(await names(authors().or("tags.cs.{sf},facts->>n.eq.2")), ["Borges", "Le Guin"]);
  assert.deepEqual(await names(authors().overlaps("active", "[1990,1991)")), ["Le Guin"]);
  assert.deepEqual(await names(authors().rangeGt("active", "[1900,1950)")), ["Le Guin"]);
});

test("full-text search", async () => {
  assert.deepEqual(await titles(books().textSearch("title", "lathe & heaven")), ["The Lathe of Heaven"]);
  const plain = books().textSearch("title", "dispossess", { type: "websearch", config: "english" });
  assert.deepEqual(await titles(plain), ["The Dispossessed"]);
});

test("order by several columns, with nulls where they are wanted, and a range", async () => {
  const descending = books().order("pages", { ascending: false, nullsFirst: true }).order("id").range(0, 1);
  assert.deepEqual(answer(await descending), [{ title: "Ficciones" }, { title: "The Dispossessed" }]);
  const ascending = books().order("pages", { nullsFirst: false }).limit(1);
  assert.deepEqual(answer(await ascending), [{ title: "The Lathe of Heaven" }]);
});

test("a count counts beyond the page, and alone with head", async () => {
  const page = await books("title", { count: "exact" }).order("id").range(1, 1);
  assert.deepEqual([page.status, page.count, page.data.length], [206, 3, 1]);
  const head = await books("id", { count: "exact", head: true });
  assert.deepEqual([head.status, head.count, head.data, head.error], [200, 3, null, null]);
  const few = await books("id", { count: "exact", head: true }).gt("pages", 200);
  assert.equal(few.count, 1);
  const beyond = await books("title", { count: "exact" }).range(7, 9);
  refused(beyond, "PGRST103", 416);
});

test("one row wanted: single and maybeSingle with none, one and several", async () => {
  const [none, one, several] = [() => books().eq("id", -1), () => books().eq("pages", 184), () => books()];
  assert.deepEqual(answer(await one().single()), { title: "The Lathe of Heaven" });
  assert.deepEqual(answer(await one().maybeSingle()), { title: "The Lathe of Heaven" });
  assert.equal(answer(await none().maybeSingle()), null);
  assert.equal(refused(await none().single(), "PGRST116", 406).details, "The result contains 0 rows");
  assert.equal(refused(await several().single(), "PGRST116", 406).details, "The result contains 3 rows");
  refused(await several().maybeSingle(), "PGRST116", 406);
});

test("formats that the local stack does not speak are refused, not faked", async () => {
  refused(await books().csv(), "PGRST107", 406);
  refused(await books().explain(), "PGRST107", 406);
});

// ---------------------------------------------------------------------------------------------------------- embedding

test("embedding both ways, nested, named by key, column or table", async () => {
  const columns = "title, author:authors!books_author_id_fkey(name), editor:editor_id(name, books!author_id(title))";
  assert.deepEqual(answer(await books(columns).eq("title", "The Dispossessed").single()), {
    title: "The Dispossessed",
    author: { name: leGuin.name },
    editor: { name: borges.name, books: [{ title: "Ficciones" }] },
  });
});

test("embedded rows filtered, ordered and limited", async () => {
  const columns = "name, books!author_id(title)";
  const query = () => ada.from("authors").select(columns).eq("id", leGuin.id);
  const [first] = answer(
    await query().order("title", { referencedTable: "books" }).limit(1, { referencedTable: "books" }),
  );
  assert.deepEqual(first.books, [{ title: "The Dispossessed" }]);
  assert.deepEqual(answer(await query().gt("books.pages", 1000).single()).books, []);
  assert.deepEqual(answer(await query().or("pages.eq.184", { referencedTable: "books" }).single()).books, [
    { title: "The Lathe of Heaven" },
  ]);
});

test("rows only where something is embedded, or only where nothing is", async () => {
  const long = ada.from("authors").select("name, books!author_id!inner(title)").gt("books.pages", 300);
  assert.deepEqual(await names(long), ["Le Guin"]);
  assert.deepEqual(await titles(books("title, editor:editor_id(name)").not("editor", "is", null)), [
    "The Dispossessed",
  ]);
  assert.deepEqual(await titles(books("title, editor:editor_id()").is("editor", null)), [
    "Ficciones",
    "The Lathe of Heaven",
  ]);
  refused(await books("title, editor:editor_id(name)").eq("editor", "x"), "PGRST120", 400);
});

test("order by a column of the embedded row", async () => {
  const query = books("title, author:author_id(name)").order("author(name)", { ascending: false }).order("title");
  assert.deepEqual(
    answer(await query).map((row) => row.title),
    ["The Dispossessed", "The Lathe of Heaven", "Ficciones"],
  );
  const many = ada.from("authors").select("name, books!author_id(title)").order("books(title)");
  refused(await many, "PGRST118", 400);
});

test("the number of embedded rows", async () => {
  const project = {
    user_id: user.id,
    name: "Many",
    repo_name: "many",
    repo_owner: "a",
    repo_url: "https://github.com/a/many",
  };
  const { id: project_id } = answer(await ada.from("projects").insert(project).select("id").single());
  answer(await service.from("tasks").insert([1, 2, 3].map(() => ({ user_id: user.id, project_id }))));
  const query = ada.from("projects").select("name, tasks(count)").eq("id", project_id).single();
  assert.deepEqual(answer(await query), { name: "Many", tasks: [{ count: 3 }] });
});

// ----------------------------------------------------------------------------------------------------------- refusals

test("what the schema does not have", async () => {
  const table = refused(await ada.from("nothing").select(), "PGRST205", 404);
  assert.equal(table.message, "Could not find the table 'public.nothing' in the schema cache");
  const column = refused(await books("nothing"), "42703", 400);
  assert.equal(column.message, "column books.nothing does not exist");
  const written = refused(await ada.from("authors").insert({ nothing: 1 }), "PGRST204", 400);
  assert.equal(written.message, "Could not find the 'nothing' column of 'authors' in the schema cache");
  refused(await ada.from("authors").update({ nothing: 1 }).eq("id", 1), "PGRST204", 400);
  refused(await books("title, nothing(id)"), "PGRST200", 400);
  const called = refused(await ada.rpc("add", { a: 1, c: 2 }), "PGRST202", 404);
  assert.equal(called.message, "Could not find the function public.add(a, c) in the schema cache");
  refused(await ada.rpc("nothing"), "PGRST202", 404);
  refused(await ada.schema("auth").from("users").select(), "PGRST106", 406);
});

test("an embed that could mean two keys names both", async () => {
  const error = refused(await books("title, authors(name)"), "PGRST201", 300);
  assert.match(error.hint, /'authors!books_author_id_fkey', 'authors!books_editor_id_fkey'/);
});

test("values and filters that cannot be", async () => {
  refused(await books().eq("id", "not a number"), "22P02", 400);
  refused(await books().filter("id", "wat", 1), "PGRST100", 400);
  refused(await books().eq("authors.name", "x"), "PGRST108", 400);
  refused(await books("pages.sum()"), "PGRST123", 400);
  refused(await ada.from("authors").insert({ name: leGuin.name }), "23505", 409);
  refused(await ada.from("books").insert({ author_id: leGuin.id, editor_id: -1, title: "x" }), "23503", 409);
  refused(await ada.rpc("add", { a: "one" }), "22P02", 400);
});
