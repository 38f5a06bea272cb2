/** Ada's little library, which the scripts look at and change; Mallory is somebody else. */
import { randomUUID } from "node:crypto";
import { answer, signedUp } from "./clients.mjs";

export const { client: ada, user } = await signedUp();
export const { client: mallory, user: mallorysUser } = await signedUp();

export const mark = randomUUID().slice(0, 8); // in every name, so that no two scripts meet

export const [leGuin, borges] = answer(
  await ada
    .from("authors")
    .insert([
      {
        name: `${mark} Le Guin`,
        tags: ["sf", "essay"],
        facts: { city: { name: "Portland" }, n: 1 },
        active: "[1959,2018)",
      },
      { name: `${mark} Borges`, tags: ["essay"], facts: { n: 2 }, active: "[1921,1986)" },
    ])
    .select(),
);
answer(
  await ada.from("books").insert([
    { author_id: leGuin.id, editor_id: borges.id, title: "The Dispossessed", pages: 341 },
    { author_id: leGuin.id, editor_id: null, title: "The Lathe of Heaven", pages: 184 },
    { author_id: borges.id, editor_id: null, title: "Ficciones", pages: null },
  ]),
);

/** A query on her books; an author nobody needs; what queries find, in order and without the mark. */
export const books = (columns = "title", options) => ada.from("books").select(columns, options);
export const titles = async (query) => answer(await query.order("title")).map((row) => row.title);
export const names = async (query) => answer(await query.order("name")).map((row) => row.name.slice(mark.length + 1));
export const spare = (values = {}) => ({ name: `${mark} ${randomUUID()}`, ...values });
